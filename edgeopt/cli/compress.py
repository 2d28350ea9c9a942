"""``edgeopt compress``: a recipe from one file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli.endings import Debug, exit_code_for, reported
from edgeopt.errors import BudgetUnmet

if TYPE_CHECKING:
    from edgeopt.recipe.schema import Recipe

RecipeFile = Annotated[Path, typer.Option("--recipe", metavar="FILE", help="The recipe: model, training, steps, export.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where everything goes.  [default: build/RECIPE, by its name]")]
Resume = Annotated[
    bool, typer.Option("--resume/--restart", help="Take finished, unchanged steps from DIR.  [default: --resume]")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="List every layer, not the first few.")]


def compress(
    recipe: RecipeFile, out: Out = None, resume: Resume = True, verbose: Verbose = False, debug: Debug = False
) -> None:  # fmt: skip
    """Compress a model step by step, judged after each; then export it."""
    with reported(debug):
        from edgeopt.support import extras

        extras.require("compress", "edgeopt compress cannot work here")
        from edgeopt.bundle.bundle import Bundle
        from edgeopt.recipe import schema
        from edgeopt.support.log_diversion import dropped

        with dropped():
            from edgeopt.recipe.run import compress as run
        from edgeopt.report.compress_plot import write_plot
        from edgeopt.report.compress_view import print_outcome
        from edgeopt.report.progress import progress
        from edgeopt.report.table import print_table

        wanted = schema.read(recipe)
        _refuse_what_cannot_be_made(wanted)
        folder = out or Path(wanted.out or Path("build", recipe.stem))
        with progress() as listen:
            outcome = run(wanted, folder, listen, resume)
        write_plot(outcome, folder / "accuracy.svg")
        print_outcome(outcome, folder, verbose=verbose)
        if wanted.export is not None:
            bundle = Bundle.load(folder / "bundle")
            print_table(bundle.manifest, bundle.path)
            if code := exit_code_for(bundle.manifest):
                raise typer.Exit(code)
        if outcome.over:
            fix = "let more be taken away in its steps, or allow more"
            raise BudgetUnmet("the result is beyond the recipe's budget", why=outcome.over, fix=fix)


def _refuse_what_cannot_be_made(recipe: "Recipe") -> None:
    """Training takes hours: a target that cannot be made here is told before. Raises UnknownName and MissingExtra."""
    from edgeopt.pipeline.selection import select

    if recipe.target is not None:
        select((recipe.target,))
    if recipe.export is not None:
        select(recipe.export.targets)
