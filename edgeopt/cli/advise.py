"""``edgeopt advise``: which techniques would bring a model within its budgets on a target, and a recipe of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli import completion
from edgeopt.cli.endings import Debug, reported
from edgeopt.cli.options import Calibration, Evaluate, Inputs

if TYPE_CHECKING:
    from edgeopt.compress.advice.advice import Advice
    from edgeopt.model.model import Model
    from edgeopt.targets.schema import TargetProfile

FORMATS = ("table", "json")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="file.py:name or package.module:name, an nn.Module.")]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME",
        help="The target that has to gain, or its TOML file.",
        autocompletion=completion.targets,
    ),
]
MaxSize = Annotated[str | None, typer.Option(metavar="SIZE", help="Of the target's artifact: 4MB, 500kB.")]
MaxLatency = Annotated[str | None, typer.Option(metavar="TIME", help="Of the target's artifact on this computer: 20ms.")]
MaxDrop = Annotated[float | None, typer.Option(metavar="X", min=0, help="What the first evaluated number may lose.")]
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
        from edgeopt.support import extras

        extras.require("compress", "edgeopt advise cannot work here")
        from edgeopt.compress.advice.advice import Budgets
        from edgeopt.support.quantities import bytes_of, milliseconds_of

        _refuse(form, write, inputs)
        budgets = Budgets(
            max_bytes=bytes_of(max_size) if max_size else None,
            max_latency_ms=milliseconds_of(max_latency) if max_latency else None,
            max_drop=max_drop,
        )
        seconds = milliseconds_of(scan) / 1e3 if scan else None
        loaded, profile = _loaded(model, target, calibration, evaluate, inputs)
        _refuse_unjudged(loaded, max_drop, scan)
        from edgeopt.report.progress import progress
        from edgeopt.support.log_diversion import dropped

        with progress() as listen, dropped():
            from edgeopt.recipe import advice as found

            training = found.training_beside(model)
            advice = found.advise(
                loaded, target, profile, budgets, listen, scan_seconds=seconds, trains=bool(training)
            )  # fmt: skip
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
    from edgeopt.model.references import load_model, parse_input
    from edgeopt.targets import loader

    profile = loader.load(target)
    parsed = tuple(map(parse_input, inputs or ()))
    return load_model(model, inputs=parsed, calibration=calibration, evaluate=evaluate), profile


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
    from edgeopt.compress.advice.recipe_text import recipe_text, reference_from
    from edgeopt.errors import UsageError
    from edgeopt.report.sensitivity_plot import write_sensitivity
    from edgeopt.support.files import write_atomic

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
