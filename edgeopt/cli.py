"""The command line: reads arguments, calls the pipeline, prints; every failure ends here as a message and an exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt import __version__, cli_advise, cli_bench, cli_completion, cli_init, cli_process, cli_recipe
from edgeopt.cli_report import Commands, Debug, exit_code_for, reported

if TYPE_CHECKING:
    from edgeopt.model import Model
    from edgeopt.options import Options

PROGRAM = "edgeopt"

app = typer.Typer(
    cls=Commands,
    help="From a trained PyTorch model to proven artifacts for real devices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would take longer than everything else
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="file.py:name, package.module:name or a .pt2 file.", show_default=False)
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="A target or its TOML file; repeatable.  [default: all]",
        autocompletion=cli_completion.targets,
    ),
]
Calibration = Annotated[str | None, typer.Option(metavar="REF", help="Batches, or a function that yields them.")]
Evaluate = Annotated[str | None, typer.Option(metavar="REF", help="evaluate(predict) -> {name: number}, higher is better.")]
MaxDrop = Annotated[
    float | None, typer.Option(metavar="X", help="Fail an artifact whose first evaluated number is lower by more.")
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
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Longest time for one target, in seconds.  [default: 900]")
]
Jobs = Annotated[int | None, typer.Option(metavar="N", help="Targets made at the same time.  [default: 2]")]
Cache = Annotated[
    bool | None, typer.Option("--cache/--no-cache", help="Take unchanged work from the cache.  [default: --cache]")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="List every layer, not the first few.")]


@app.command()
def export(
    context: typer.Context, model: ModelArgument = None, targets: Targets = None, calibration: Calibration = None,
    evaluate: Evaluate = None, max_drop: MaxDrop = None, inputs: Inputs = None, config: Config = None, out: Out = None,
    io_float: FloatIo = None, timeout: Timeout = None, jobs: Jobs = None, cache: Cache = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Make and prove an artifact for every target."""
    with reported(debug):
        loaded, options = _request(context.params, makes=True)
        from edgeopt.chatter import dropped

        with dropped():
            from edgeopt.pipeline import export as run
        from edgeopt.report.progress import progress
        from edgeopt.report.table import print_table

        with progress() as listen:
            bundle = run(loaded, options, listen)
        print_table(bundle.manifest, options.out)
        raise typer.Exit(exit_code_for(bundle.manifest, options.targets))


@app.command()
def plan(
    context: typer.Context, model: ModelArgument = None, targets: Targets = None, calibration: Calibration = None,
    evaluate: Evaluate = None, max_drop: MaxDrop = None, inputs: Inputs = None, config: Config = None, out: Out = None,
    io_float: FloatIo = None, timeout: Timeout = None, jobs: Jobs = None, cache: Cache = None, debug: Debug = False,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Show what export would make, and why; make nothing."""
    with reported(debug):
        loaded, options = _request(context.params)
        from edgeopt.chatter import dropped

        with dropped():
            from edgeopt.pipeline import plan as run
        from edgeopt.report.plan_view import print_plans
        from edgeopt.report.progress import progress

        with progress() as listen:
            plans = run(loaded, options, listen)
        print_plans(plans, verbose=verbose)


@app.command("targets")
def show_targets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Show this target's settings.", show_default=False, autocompletion=cli_completion.targets
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the targets, or one with all its settings."""
    with reported(debug):
        from edgeopt.report.target_view import print_target, print_targets
        from edgeopt.targets import loader

        if name is None:
            print_targets([loader.load(known) for known in loader.names()])
        else:
            print_target(loader.load(name))


@app.command("doctor")
def show_doctor(debug: Debug = False) -> None:
    """Show what is installed and how to get the rest."""
    with reported(debug):
        from edgeopt.doctor import diagnose
        from edgeopt.report.doctor_view import print_checks

        print_checks(diagnose())


app.command()(cli_init.init)
app.command()(cli_advise.advise)
app.command()(cli_recipe.compress)
app.command()(cli_bench.bench)
app.add_typer(cli_bench.devices_app, name="devices")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgeopt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From a trained PyTorch model to proven artifacts for real devices."""


def main() -> None:
    """The entry point ``edgeopt``."""
    cli_process.run(app, PROGRAM)


def _request(arguments: dict[str, Any], *, makes: bool = False) -> "tuple[Model, Options]":
    """The loaded model and the options that the command line and the configuration file ask for.

    A wrong target is told at once, before the model is loaded, and where it ``makes`` something, one that cannot be made here.
    """
    from edgeopt.config import from_arguments, read
    from edgeopt.errors import UsageError
    from edgeopt.references import load_model, parse_input
    from edgeopt.selection import asked, select

    settings = from_arguments(arguments)
    if arguments["config"]:
        settings = settings.over(read(arguments["config"]))
    if settings.model is None:
        raise UsageError("no model is given", fix="edgeopt export file.py:name, or model = ... in the file after --config")
    inputs = tuple(map(parse_input, settings.inputs))
    (select if makes else asked)(settings.targets)
    model = load_model(settings.model, inputs=inputs, calibration=settings.calibration, evaluate=settings.evaluate)
    if settings.max_drop is not None and model.evaluate is None:
        why, fix = "the model has no evaluate", "add --evaluate file.py:name"
        if "evaluate" in model.unfilled:
            why, fix = "the model's evaluate is still a placeholder", "fill it in, then take @edgeopt.placeholder away"
        raise UsageError("--max-drop has nothing to judge", why=why, fix=fix)
    _warn_of_placeholders(model)
    return model, settings.options(model.name)


def _warn_of_placeholders(model: "Model") -> None:
    """Until they are filled in, nothing is calibrated or measured, whatever the figures below say."""
    for name in model.unfilled:
        function = {"calibration": "batches"}.get(name, name)
        typer.echo(
            f"warning: no {name}: the model's {function}() is marked with @edgeopt.placeholder, until it is filled in", err=True
        )


if __name__ == "__main__":
    main()
