"""What the user's own module gives, in the file that every artifact is proved against."""

from pathlib import Path

import numpy as np
import torch

from edgeopt.capture import Captured
from edgeopt.model import evaluation
from edgeopt.quantize.calibrate import Calibrated, raising_on
from edgeopt.quantize.held_out import FEWEST, Sample
from edgeopt.verify.agreement import MODEL_SECONDS, Clock, chosen, steps
from edgeopt.verify.reference_outputs import ReferenceOutputs

Arrays = tuple[evaluation.Array, ...]


def write_references(path: Path, captured: Captured, calibrated: Calibrated) -> int:
    """Its outputs on held-out samples, and on inputs unlike the example where it takes them; of how many held-out ones.

    Of the first few all outputs are kept. Of the others only classes, where there are any and while the model's time lasts.
    """
    run = _module_run(captured)
    names = tuple(spec.name for spec in captured.outputs)
    references = ReferenceOutputs(names=names, samples=[], outputs=[])
    module, held_out = captured.program.module(check_guards=False), calibrated.held_out

    def outputs_of(sample: Sample) -> Arrays:
        with raising_on(module, sample, "a sample of the calibration data"):
            return run(_arrays(sample))

    clock = Clock()
    for sample in held_out[:FEWEST]:
        references.outputs.append(outputs_of(sample))
        references.samples.append(_arrays(sample))
    first_s = clock.seconds()
    count = len(held_out) if chosen(references.outputs[0]) else len(references.samples)
    for index in steps(count, len(references.samples), first_s, MODEL_SECONDS):
        references.classes.append(chosen(outputs_of(held_out[index])))
        references.further.append(_arrays(held_out[index]))
    masks = not all(_is_finite(output) for outputs in references.outputs for output in outputs)
    for sample in captured.unlike:
        outputs = _given(run, _arrays(sample))
        if outputs is not None and (masks or all(map(_is_finite, outputs))):
            references.unlike.append(_arrays(sample))
            references.unlike_outputs.append(outputs)
    references.write(path)
    return len(references.samples) + len(references.further)


def program_run(captured: Captured) -> evaluation.Run:
    """The captured program, called with arrays."""
    module = captured.program.module(check_guards=False)

    def run(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(*(torch.from_numpy(np.asarray(array)) for array in arrays)))

    return run


def _module_run(captured: Captured) -> evaluation.Run:
    """The user's own module; where that computes in float16 or bfloat16, its float32 program, which was compared with it."""
    if captured.in_low_precision:
        return program_run(captured)

    def run(arrays: Arrays) -> Arrays:
        return tuple(output.numpy() for output in captured.witness(*map(torch.from_numpy, arrays)))

    return run


def _given(run: evaluation.Run, sample: Arrays) -> Arrays | None:
    """The outputs; None where the module cannot take such inputs (it raises, or gives NaN)."""
    try:
        outputs = run(sample)
    except (Exception, SystemExit):  # the user's code may raise anything on inputs that are none of its own
        return None
    return None if any(np.isnan(np.asarray(output, np.float64)).any() for output in outputs) else outputs


def _is_finite(output: evaluation.Array) -> bool:
    return bool(np.isfinite(np.asarray(output, np.float64)).all())


def _arrays(sample: Sample) -> Arrays:
    return tuple(value.numpy() for value in sample)
