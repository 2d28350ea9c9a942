"""Where an integer artifact is far from its model: the layers that lose most, for the words of an export."""

import logging
import time

import torch

from edgeopt.capture import layer_of
from edgeopt.diagnosis.explained import worst_layers
from edgeopt.diagnosis.measuring import Measurements
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.program import Programs

SECONDS = 10.0
_log = logging.getLogger(__name__)


def blamed(programs: Programs, job: Job) -> str:
    """The three worst layers and the command that says why; the command alone where that is not known in a few seconds.

    On one calibration sample: statistics, moments and the equalized program are there already.
    """
    command = f"edgeopt blame MODEL --target {job.profile.name}"
    try:
        with programs.turn(), torch.no_grad():
            names = _worst(programs, job)
    except Exception:  # the export has its result, whatever becomes of this
        _log.exception("the layers that lose most on %s were not found", job.name)
        names = ()
    return f"most is lost in {', '.join(names)}: {command} says why" if names else f"{command} says where it is lost"


def _worst(programs: Programs, job: Job) -> tuple[str, ...]:
    start, until = programs.prepared(job), time.monotonic() + SECONDS
    if not programs.samples:
        return ()
    measured = Measurements.begun(start.simulated(job), programs.samples[:1], {}, (), until)
    measured.alone(until)
    return tuple(dict.fromkeys(layer_of(source.head) for source in worst_layers(measured)))
