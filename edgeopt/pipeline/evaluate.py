"""The user's numbers: for the model as it is, and for each artifact in a worker."""

from edgeopt.capture import Captured
from edgeopt.errors import UsageError
from edgeopt.model import evaluation
from edgeopt.model.choices import Choices, Evaluated
from edgeopt.model.model import Evaluate
from edgeopt.model.repeated import Numbers, numbers
from edgeopt.model.slices import slices
from edgeopt.pipeline.prove import Proven
from edgeopt.pipeline.references import program_run
from edgeopt.pipeline.requests import PredictRequest
from edgeopt.pipeline.run import ExportRun
from edgeopt.support.progress import Listener, event


def evaluate_model(
    function: Evaluate | None, captured: Captured, max_slice_drop: float | None, listen: Listener
) -> Numbers:  # fmt: skip
    """The user's numbers for the float model; empty without ``evaluate``. Raises UsageError where a gate has no slices."""
    if function is None:
        return Numbers({})
    listen(event("model", "evaluate"))
    found = numbers(function, program_run(captured), captured.signature.specs, "the float model")
    metric = next(iter(found.found))
    if max_slice_drop is not None and not slices(found.found, metric):
        why = f"evaluate gave {', '.join(found.found)[:200]}, and no slice of {metric}"
        fix = f'let it return slices beside {metric}, such as "{metric}/class=7", or take max_slice_drop away'
        raise UsageError("--max-slice-drop has nothing to judge", why=why, fix=fix)
    return found


def evaluate(run: ExportRun, proven: Proven) -> Evaluated:
    """The user's numbers for the artifact; empty without ``evaluate`` or where the artifact cannot run here."""
    if run.evaluate is None or proven.unproven:
        return Evaluated()
    job, choices, model = proven.made.job, Choices(), run.model_numbers
    run.listen(event(job.name, "evaluate"))
    request = PredictRequest(format=job.format, out=proven.made.path, threads=1)
    with run.evaluating, run.session(job.profile.name, request) as session:
        function = choices.watching(run.evaluate)
        found = evaluation.evaluate(function, session.call, run.captured.signature.specs, job.name)
    return Evaluated(found, model.choices.paired(choices) if model.steady else None)
