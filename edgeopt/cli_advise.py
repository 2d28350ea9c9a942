"""``edgeopt advise``: which techniques would bring a model within its budgets on a target, and a recipe of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt import cli_completion
from edgeopt.cli_report import Debug, reported

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.capture import Captured
    from edgeopt.compress.planner.advice import Advice, Budgets
    from edgeopt.compress.sensitivity import Sensitivity
    from edgeopt.core import Plan
    from edgeopt.model import Model
    from edgeopt.options import Listener
    from edgeopt.targets.schema import TargetProfile

FORMATS = ("table", "json")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="file.py:name or package.module:name, an nn.Module.")]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME",
        help="The target that has to gain, or its TOML file.",
        autocompletion=cli_completion.targets,
    ),
]
MaxSize = Annotated[str | None, typer.Option(metavar="SIZE", help="Of the target's artifact: 4MB, 500kB.")]
MaxLatency = Annotated[str | None, typer.Option(metavar="TIME", help="Of the target's artifact on this computer: 20ms.")]
MaxDrop = Annotated[float | None, typer.Option(metavar="X", min=0, help="What the first evaluated number may lose.")]
Calibration = Annotated[str | None, typer.Option(metavar="REF", help="Batches, or a function that yields them.")]
Evaluate = Annotated[str | None, typer.Option(metavar="REF", help="evaluate(predict) -> {name: number}, higher is better.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SPEC", help="1x3x224x224:float32, or ids=1x128:int64; repeatable, in order."),
]
Write = Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write the advice as a recipe, recipe.toml.")]
Scan = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Evaluate with each layer cut, for up to 60s, and leave the sensitive ones whole."),
]
Format = Annotated[str, typer.Option("--format", metavar="NAME", help="table or json.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="List every layer.")]


def advise(
    model: ModelArgument, target: Target, max_size: MaxSize = None, max_latency: MaxLatency = None, max_drop: MaxDrop = None,
    calibration: Calibration = None, evaluate: Evaluate = None, inputs: Inputs = None, write: Write = None,
    scan: Scan = None, form: Format = "table", verbose: Verbose = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Say which techniques, in which order, bring a model within a size or latency."""
    with reported(debug):
        from edgeopt import extras

        extras.require("compress", "edgeopt advise cannot work here")
        from edgeopt.compress.planner.advice import Budgets
        from edgeopt.quantities import bytes_of, milliseconds_of

        _refuse(form, write, inputs)
        budgets = Budgets(
            max_bytes=bytes_of(max_size) if max_size else None,
            max_latency_ms=milliseconds_of(max_latency) if max_latency else None,
            max_drop=max_drop,
        )
        seconds = milliseconds_of(scan) / 1e3 if scan else None
        loaded, profile = _loaded(model, target, calibration, evaluate, inputs)
        _refuse_unjudged(loaded, max_drop, scan)
        training = _training(model)
        advice = _advice(loaded, target, profile, budgets, seconds, trains=bool(training))
        _show(advice, form, verbose)
        if write:
            given = {"model": model, "target": target, "calibration": calibration, "evaluate": evaluate}
            _write(advice, write, {name: reference for name, reference in given.items() if reference}, training)


def _refuse(form: str, write: Path | None, inputs: list[str] | None) -> None:
    """What cannot be, before the model is loaded."""
    from edgeopt.errors import UsageError, did_you_mean

    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}", fix=did_you_mean(form, FORMATS) or f"one of {', '.join(FORMATS)}")
    if write and write.exists():
        raise UsageError(f"{write} exists", why="a recipe may hold somebody's work", fix="give another name, or remove it")
    if write and inputs:
        fix = "make the model an edgeopt.Model with example_inputs"
        raise UsageError("--write and --input do not go together", why="a recipe's model brings its example inputs", fix=fix)


def _refuse_unjudged(model: "Model", max_drop: float | None, scan: str | None) -> None:
    from edgeopt.errors import UsageError

    for option in (["--max-drop"] if max_drop is not None else []) + (["--scan"] if scan else []):
        if model.evaluate is None:
            raise UsageError(
                f"{option} has nothing to judge", why="the model has no evaluate", fix="add --evaluate file.py:name"
            )


def _loaded(
    model: str, target: str, calibration: str | None, evaluate: str | None, inputs: list[str] | None
) -> "tuple[Model, TargetProfile]":
    from edgeopt.references import load_model, parse_input
    from edgeopt.targets import loader

    profile = loader.load(target)
    parsed = tuple(map(parse_input, inputs or ()))
    return load_model(model, inputs=parsed, calibration=calibration, evaluate=evaluate), profile


def _advice(
    model: "Model", target: str, profile: "TargetProfile", budgets: "Budgets", seconds: float | None, *, trains: bool
) -> "Advice":
    from edgeopt.chatter import dropped
    from edgeopt.report.progress import progress

    with progress() as listen, dropped():
        from edgeopt.capture import capture
        from edgeopt.compress.advise import advise as run
        from edgeopt.options import Event

        measured = _latency(model, target, listen) if budgets.max_latency_ms is not None else None

        def tell(line: str) -> None:
            listen(Event(subject=model.name, phase="plan", detail=line))

        listen(Event(subject=model.name, phase="capture"))
        captured = capture(model)
        plan = _plan(model, captured, target, listen)
        try:
            scanned = None if seconds is None else _scanned(model, captured, seconds, tell)
            return run(
                model, profile, budgets, latency_ms=measured, plan=plan, captured=captured, sensitivity=scanned, trains=trains,
                tell=tell,
            )  # fmt: skip
        finally:
            listen(Event(subject=model.name, phase="done"))


def _plan(model: "Model", captured: "Captured", target: str, listen: "Listener") -> "Plan | None":
    """What the target would make of the model as it is: the layers that it leaves in float."""
    from edgeopt.options import Options
    from edgeopt.pipeline import plan
    from edgeopt.targets import loader

    plans = plan(model, Options(out=Path(), targets=(target,)), listen, captured)
    return next((one for one in plans if one.target == loader.load(target).name), None)


def _scanned(model: "Model", captured: "Captured", seconds: float, tell: Callable[[str], None]) -> "Sensitivity":
    from edgeopt.compress.sensitivity import scan
    from edgeopt.compress.technique import Context

    context = Context(example_inputs=model.example_inputs, evaluate=model.evaluate, tell=tell)
    module: Any = model.module
    return scan(module, context, seconds=seconds, program=captured.program)


def _latency(model: "Model", target: str, listen: "Listener") -> "Callable[[nn.Module], float]":
    """Exports a module for the target and times the artifact here, as every export does."""
    from dataclasses import replace

    from edgeopt.errors import TargetFailed
    from edgeopt.options import Options
    from edgeopt.pipeline import export
    from edgeopt.scratch import scratch
    from edgeopt.targets import loader

    name = loader.load(target).name

    def measured(module: "nn.Module") -> float:
        with scratch() as folder:
            options = Options(out=folder / "bundle", targets=(target,))
            bundle = export(replace(model, module=module, evaluate=None), options, listen)
        results = [result for result in bundle.manifest.results if result.target == name]
        times = [result.latency.median_ms for result in results if result.latency is not None]
        if not times:
            why = "; ".join(result.reason for result in results if result.reason) or "its runtime does not run on this computer"
            fix = "leave --max-latency out, or let edgeopt compress measure on a device"
            raise TargetFailed(f"the latency on {name} cannot be measured here", why=why, fix=fix)
        return min(times)

    return measured


def _show(advice: "Advice", form: str, verbose: bool) -> None:
    from edgeopt.core import to_json
    from edgeopt.report.advice_view import print_advice, print_sensitivity

    if form == "json":
        typer.echo(to_json(advice), nl=False)
    else:
        print_advice(advice, verbose=verbose)
        if advice.sensitivity is not None:
            print_sensitivity(advice.sensitivity, verbose=verbose)


def _write(advice: "Advice", path: Path, references: dict[str, str], training: dict[str, str]) -> None:
    from edgeopt.compress.planner.recipe_text import recipe_text, reference_from
    from edgeopt.errors import UsageError
    from edgeopt.files import write_atomic
    from edgeopt.report.sensitivity_plot import write_sensitivity

    if not advice.steps:
        typer.echo("no recipe is written: there is nothing to compress", err=True)
        return
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", fix="make it, or give another name")
    text = recipe_text(
        advice, *({name: reference_from(folder, one) for name, one in some.items()} for some in (references, training))
    )
    write_atomic(path, text.encode())
    if advice.sensitivity is not None:
        plot = path.with_name(f"{path.stem}-sensitivity.svg")
        write_sensitivity(advice.sensitivity, plot)
        typer.echo(f"the scan is plotted in {plot}", err=True)
    typer.echo(f"the recipe is in {path}: edgeopt compress --recipe {path}", err=True)


def _training(model: str) -> dict[str, str]:
    """The training code that stands beside the model under the names that recipes use."""
    from edgeopt.errors import ReferenceNotFound
    from edgeopt.references import resolve

    def found(name: str) -> dict[str, str]:
        reference = f"{model.rpartition(':')[0]}:{name}"
        try:
            return {name: reference} if callable(resolve(reference)) else {}
        except ReferenceNotFound:
            return {}

    stepwise = found("train_step") | found("batches")
    return stepwise if len(stepwise) == 2 else found("fit")
