"""Which of a profile's schemes an artifact is made by: the first that converts and passes, with every refusal recorded.

Where integers miss a gate, some layers in floats are tried before the next scheme. Where the user is strict, the first or none.
"""

from collections.abc import Callable
from functools import partial

from edgeopt.errors import ConversionError, SchemeRefused
from edgeopt.pipeline.convert import Made, convert
from edgeopt.pipeline.evaluate import evaluate
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.judge import failures
from edgeopt.pipeline.mixed import Settled, mixed
from edgeopt.pipeline.prove import prove
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support.progress import event
from edgeopt.verify import verdicts


def settle(run: ExportRun, job: Job, data: Data, early: Callable[[], Made] | None = None) -> Settled:
    """Tries the schemes of ``job`` in their order; the last is kept whatever its checks say, to be judged.

    ``early`` gives the artifact of the first scheme where it is being converted already. Raises what the last scheme's
    conversion raises. A strict job has its first scheme alone: SchemeRefused where that cannot be converted.
    """
    attempt = early or partial(convert, run, job, data)
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
            failed = [verdicts.describe(one) for one in failures(run, settled.proven, settled.evaluated)]
            refusal = "; ".join(filter(None, (*failed, settled.missed)))
            other = job.fallback(refusal) if failed and not job.strict else None
            if other is None:
                return settled
            told = f"{failed[0]}: "
        run.listen(event(job.name, "convert", f"{told}falling back to {other.scheme.describe()}"))
        job, attempt = other, partial(convert, run, other, data)


def _refused(job: Job, other: Job) -> SchemeRefused:
    what = f"the scheme {job.scheme.describe()} was refused, and with --strict-scheme no other takes its place"
    return SchemeRefused(what, why=other.refused[-1].reason, fix=job.without_strict)


def _settled(run: ExportRun, made: Made, data: Data) -> Settled:
    proven = prove(run, made, data)
    return Settled(proven, evaluate(run, proven))
