"""Advice on a model: captured, planned for its target, scanned and timed as far as the budgets ask for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeopt.capture import Captured, capture
from edgeopt.compress.advice.advice import Advice, Budgets
from edgeopt.compress.advice.advise import advise as advised
from edgeopt.compress.advice.sensitivity import Sensitivity, scan
from edgeopt.compress.technique import Context
from edgeopt.core import Plan
from edgeopt.errors import ReferenceNotFound, TargetFailed
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.model.references import resolve
from edgeopt.pipeline.export import export
from edgeopt.pipeline.plan import plan
from edgeopt.support.progress import Listener, event
from edgeopt.support.scratch import scratch
from edgeopt.targets.schema import TargetProfile


def advise(
    model: Model, target: str, profile: TargetProfile, budgets: Budgets, listen: Listener,
    *, scan_seconds: float | None, trains: bool,
) -> Advice:  # fmt: skip
    """Which techniques, in which order, bring ``model`` within ``budgets`` on ``target``, whose profile is ``profile``.

    ``scan_seconds``: how long each layer is tried without some of its channels; None looks at none. ``trains``: whether the
    user has training code.
    """
    measured = _latency(model, target, profile, listen) if budgets.max_latency_ms is not None else None

    def tell(line: str) -> None:
        listen(event(model.name, "plan", line))

    listen(event(model.name, "capture"))
    captured = capture(model)
    found = _plan(model, captured, target, profile, listen)
    try:
        scanned = None if scan_seconds is None else _scanned(model, captured, scan_seconds, tell)
        return advised(
            model, profile, budgets, latency_ms=measured, plan=found, captured=captured, sensitivity=scanned, trains=trains,
            tell=tell,
        )  # fmt: skip
    finally:
        listen(event(model.name, "done"))


def training_beside(model: str) -> dict[str, str]:
    """References to the training code that stands beside the model of that reference, by the names that recipes use."""

    def found(name: str) -> dict[str, str]:
        reference = f"{model.rpartition(':')[0]}:{name}"
        try:
            return {name: reference} if callable(resolve(reference)) else {}
        except ReferenceNotFound:
            return {}

    stepwise = found("train_step") | found("batches")
    return stepwise if len(stepwise) == 2 else found("fit")


def _plan(model: Model, captured: Captured, target: str, profile: TargetProfile, listen: Listener) -> Plan | None:
    """What the target would make of the model as it is: the layers that it leaves in float."""
    plans = plan(model, Options(out=Path(), targets=(target,)), listen, captured)
    return next((one for one in plans if one.target == profile.name), None)


def _scanned(model: Model, captured: Captured, seconds: float, tell: Callable[[str], None]) -> Sensitivity:
    context = Context(example_inputs=model.example_inputs, evaluate=model.evaluate, tell=tell)
    module: Any = model.module
    return scan(module, context, seconds=seconds, program=captured.program)


def _latency(model: Model, target: str, profile: TargetProfile, listen: Listener) -> Callable[[nn.Module], float]:
    """Exports a module for the target and times the artifact here, as every export does."""

    def measured(module: nn.Module) -> float:
        with scratch() as folder:
            options = Options(out=folder / "bundle", targets=(target,))
            bundle = export(replace(model, module=module, evaluate=None), options, listen)
        results = [result for result in bundle.manifest.results if result.target == profile.name]
        times = [result.latency.median_ms for result in results if result.latency is not None]
        if not times:
            why = "; ".join(result.reason for result in results if result.reason) or "its runtime does not run on this computer"
            fix = "leave --max-latency out, or let edgeopt compress measure on a device"
            raise TargetFailed(f"the latency on {profile.name} cannot be measured here", why=why, fix=fix)
        return min(times)

    return measured
