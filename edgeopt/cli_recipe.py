"""``edgeopt compress``: a recipe from one file."""

from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli_report import Debug, exit_code_for, reported
from edgeopt.errors import BudgetUnmet

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
        from edgeopt.bundle import Bundle
        from edgeopt.recipe import schema
        from edgeopt.recipe.run import compress as run
        from edgeopt.report.compress_plot import write_plot
        from edgeopt.report.compress_view import print_outcome
        from edgeopt.report.progress import progress
        from edgeopt.report.table import print_table

        wanted = schema.read(recipe)
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
