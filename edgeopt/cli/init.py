"""``edgeopt init``: an edgeopt.toml and a Python file for a model, to begin with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt.cli.endings import Debug, reported

if TYPE_CHECKING:
    from edgeopt.starter.start import Started

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="file.py:name, package.module:name or a .pt2 file.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="SPEC", help="1x3x224x224:float32, or ids=1x128:int64; repeatable, in order.  [default: the model's]"
    ),
]


def init(context: typer.Context, model: ModelArgument, inputs: Inputs = None, debug: Debug = False) -> None:
    """Write edgeopt.toml and edgeopt_model.py for a model, to fill in."""
    with reported(debug):
        from edgeopt.starter.start import start

        _tell(start(model, inputs or (), _meanings(context), Path()))


def _meanings(context: typer.Context) -> dict[str, str]:
    """What ``export`` says of its options, which are the settings of edgeopt.toml: they are explained in one place."""
    root: Any = context.find_root().command
    return {parameter.name: parameter.help or "" for parameter in root.commands["export"].params}


def _tell(started: "Started") -> None:
    from edgeopt.report.text import plain
    from edgeopt.starter.start import CODE_FILE, CONFIG_FILE

    seen = started.seen
    made = sum(not choice.without for choice in started.choices)
    typer.echo(f"{CONFIG_FILE}: every setting, {made} of {len(started.choices)} targets")
    typer.echo(f"{CODE_FILE}: model, batches and evaluate, with FILL IN where your data belongs")
    if seen.inputs:
        takes, gives = (
            ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape)) or 'scalar'}:{spec.dtype}" for spec in specs)
            for specs in (seen.inputs, seen.outputs)
        )
        typer.echo(plain(f"the model: {takes} -> {gives}"))
    else:
        typer.echo(f"\nnothing says what the model takes: first fill in `inputs` in {CONFIG_FILE}, where it says FILL IN")
    typer.echo("\nnext:")
    for command in started.commands:
        typer.echo(f"    {command}")
    unfilled = [name for name, brought in (("batches", seen.calibration), ("evaluate", seen.evaluate)) if not brought]
    if unfilled:
        typer.echo(
            f"\nbefore you trust a number: fill in {' and '.join(unfilled)} in {CODE_FILE}, and take @edgeopt.placeholder away"
        )
