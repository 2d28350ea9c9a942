"""What ``edgeopt export`` and ``edgeopt plan`` are asked, and the model and options that this means."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt.cli import completion

if TYPE_CHECKING:
    from edgeopt.model.config import Settings
    from edgeopt.model.model import Model
    from edgeopt.model.options import Options

ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="file.py:name, package.module:name or a .pt2 file.", show_default=False)
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="A target or its TOML file; repeatable.  [default: all]",
        autocompletion=completion.targets,
    ),
]
Calibration = Annotated[str | None, typer.Option(metavar="REF", help="Batches, or a function that yields them.")]
Evaluate = Annotated[str | None, typer.Option(metavar="REF", help="evaluate(predict) -> {name: number}, higher is better.")]
MaxDrop = Annotated[
    float | None, typer.Option(metavar="X", help="Fail an artifact whose first evaluated number is lower by more.")
]
MaxSliceDrop = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Fail an artifact of which one slice of that number, such as top1/class=7, is lower by more."
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(metavar="DB", help="Fail an artifact whose SQNR is lower; layers that need it stay in floats."),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(metavar="X", help="Fail an artifact that agrees on fewer samples, 0 to 1; the same holds."),
]
MaxSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Fail an artifact with a larger file; room left goes to layers in floats."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SPEC", help="1x3x224x224:float32, or ids=1x128:int64; repeatable, in order."),
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="An edgeopt.toml with any of these settings.")]
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the bundle.  [default: build/MODEL]")]
FloatIo = Annotated[
    bool | None, typer.Option("--float-io/--no-float-io", help="Floats in and out where the target's default is integers.")
]
NeverSlower = Annotated[
    bool | None,
    typer.Option("--never-slower/--no-never-slower", help="What is slower than float on its own kind of CPU gives way."),
]
StrictScheme = Annotated[
    bool | None,
    typer.Option("--strict-scheme/--no-strict-scheme", help="Fail a target where the scheme that it prefers does not work."),
]
Quality = Annotated[
    str | None,
    typer.Option(metavar="fast|balanced|best", help="How much is done so that integers keep accuracy.  [default: balanced]"),
]
LatencyTable = Annotated[
    str | None, typer.Option(metavar="FILE", help="Costs of layers as bench --layers measured them on its target's device.")
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Longest time for one target, in seconds.  [default: 900]")
]
Jobs = Annotated[int | None, typer.Option(metavar="N", help="Targets made at the same time.  [default: 2]")]
Cache = Annotated[
    bool | None, typer.Option("--cache/--no-cache", help="Take unchanged work from the cache.  [default: --cache]")
]


def asked_for(arguments: dict[str, Any]) -> "Settings":
    """What the command line and the configuration file ask for, before anything is loaded."""
    from edgeopt.errors import UsageError
    from edgeopt.model.config import from_arguments, read
    from edgeopt.model.references import parse_input

    settings = from_arguments(arguments)
    if arguments["config"]:
        settings = settings.over(read(arguments["config"]))
    if settings.model is None:
        raise UsageError("no model is given", fix="edgeopt export file.py:name, or model = ... in the file after --config")
    for text in settings.inputs:
        parse_input(text)
    return settings


def load(settings: "Settings") -> "tuple[Model, Options]":
    """The model that ``settings`` name, and the options of a run."""
    from edgeopt.errors import UsageError
    from edgeopt.model.references import load_model, parse_input

    inputs = tuple(map(parse_input, settings.inputs))
    model = load_model(str(settings.model), inputs=inputs, calibration=settings.calibration, evaluate=settings.evaluate)
    limits = {"--max-drop": settings.max_drop, "--max-slice-drop": settings.max_slice_drop}
    given = [option for option, limit in limits.items() if limit is not None]
    if given and model.evaluate is None:
        why, fix = "the model has no evaluate", "add --evaluate file.py:name"
        if "evaluate" in model.unfilled:
            why, fix = "the model's evaluate is still a placeholder", "fill it in, then take @edgeopt.placeholder away"
        raise UsageError(f"{given[0]} has nothing to judge", why=why, fix=fix)
    _warn_of_placeholders(model)
    return model, settings.options(model.name)


def _warn_of_placeholders(model: "Model") -> None:
    """Until they are filled in, nothing is calibrated or measured, whatever the figures below say."""
    for name in model.unfilled:
        function = {"calibration": "batches"}.get(name, name)
        typer.echo(
            f"warning: no {name}: the model's {function}() is marked with @edgeopt.placeholder, until it is filled in", err=True
        )
