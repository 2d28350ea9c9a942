"""The user's numbers: for the model as it is, and for each artifact in a worker."""

from edgeopt.capture import Captured
from edgeopt.model import evaluation
from edgeopt.model.model import Evaluate
from edgeopt.pipeline.prove import Proven
from edgeopt.pipeline.references import program_run
from edgeopt.pipeline.requests import PredictRequest
from edgeopt.pipeline.run import ExportRun
from edgeopt.support.progress import Listener, event


def evaluate_model(function: Evaluate | None, captured: Captured, listen: Listener) -> dict[str, float]:
    """The user's numbers for the float model; empty without ``evaluate``."""
    if function is None:
        return {}
    listen(event("model", "evaluate"))
    return evaluation.evaluate(function, program_run(captured), captured.signature.specs, "the float model")


def evaluate(run: ExportRun, proven: Proven) -> dict[str, float]:
    """The user's numbers for the artifact; empty without ``evaluate`` or where the artifact cannot run here."""
    if run.evaluate is None or proven.unproven:
        return {}
    job = proven.made.job
    run.listen(event(job.name, "evaluate"))
    request = PredictRequest(format=job.format, out=proven.made.path, threads=1)
    with run.evaluating, run.session(job.profile.name, request) as session:
        return evaluation.evaluate(run.evaluate, session.call, run.captured.signature.specs, job.name)
