"""Which of a profile's schemes an artifact is made by: the first that converts and passes, with every refusal recorded.

Where integers miss a gate, some layers in floats are tried before the next scheme. Where the user is strict, the first or none.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgeopt.errors import ConversionError, SchemeRefused
from edgeopt.pipeline.convert import Made, convert
from edgeopt.pipeline.evaluate import evaluate
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.judge import failures
from edgeopt.pipeline.mixed import Settled, mixed, too_large
from edgeopt.pipeline.prove import prove
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support.files import size_of
from edgeopt.support.progress import event
from edgeopt.verify import verdicts


def settle(run: ExportRun, job: Job, data: Data, early: Callable[[], Made] | None = None) -> Settled:
    """Tries the schemes of ``job`` in their order; the last is kept whatever its checks say, to be judged.

    ``early`` gives the artifact of the first scheme where it is being converted already. Raises what the last scheme's
    conversion raises. A strict job has its first scheme alone: SchemeRefused where that cannot be converted.
    """
    attempt = early or partial(convert, run, job, data)
    smallest: tuple[int, Settled] | None = None
    while True:
        try:
            made = attempt()
        except ConversionError as error:
            told, other = "", job.fallback(": ".join(filter(None, (error.what, error.why))))
            if other is None:
                raise
            if job.strict:
                raise _refused(job, other) from error
        else:
            settled = mixed(run, _settled(run, made, data), data, lambda job: _settled(run, convert(run, job, data), data))
            found = failures(run, settled.proven, settled.evaluated)
            smallest = min(filter(None, (smallest, (size_of(settled.proven.made.path), settled))), key=lambda one: one[0])
            failed = [verdicts.describe(one) for one in found]
            refusal = "; ".join(filter(None, (*failed, settled.missed)))
            other = job.fallback(refusal) if failed and not job.strict else None
            if other is None:
                return _remade(run, smallest[1], data) if too_large(found) and smallest[1] is not settled else settled
            told = f"{failed[0]}: "
        run.listen(event(job.name, "convert", f"{told}falling back to {other.scheme.describe()}"))
        job, attempt = other, partial(convert, run, other, data)


def _remade(run: ExportRun, before: Settled, data: Data) -> Settled:
    """``before`` once more, since another scheme's file took its place and is larger than it may be."""
    run.listen(
        event(before.proven.made.job.name, "convert", "no scheme meets every gate within --max-size: back to the smallest")
    )
    return replace(_settled(run, convert(run, before.proven.made.job, data), data), missed=before.missed)


def _refused(job: Job, other: Job) -> SchemeRefused:
    what = f"the scheme {job.scheme.describe()} was refused, and with --strict-scheme no other takes its place"
    return SchemeRefused(what, why=other.refused[-1].reason, fix=job.without_strict)


def _settled(run: ExportRun, made: Made, data: Data) -> Settled:
    proven = prove(run, made, data)
    return Settled(proven, evaluate(run, proven))
