"""Of each result how it was made: its scheme, marked where the target prefers another one, and what of it stayed in float."""

from rich.table import Table
from rich.text import Text

from edgeopt.core import Plan, QuantScheme, TargetResult

NONE = "-"


def add_scheme_columns(table: Table) -> None:
    """The columns that :func:`scheme_cells` fills."""
    table.add_column("scheme", no_wrap=True)
    for header in ("float\nlayers", "of\nwork"):
        table.add_column(header, justify="right", no_wrap=True)


def scheme_cells(result: TargetResult) -> tuple[Text | str, ...]:
    """The scheme, how many layers stayed in float, and their share of the multiply-accumulates."""
    plan = result.plan
    if plan is None:
        return (NONE,) * 3
    if not plan.scheme.quantized:
        return _scheme(plan), "all", "100%"
    return _scheme(plan), f"{plan.float_layers:,}", NONE if plan.float_macs is None else _share(plan.float_macs)


def _scheme(plan: Plan) -> Text:
    sparse = " 2:4" if any(layer.pruned for layer in plan.sparse_layers) else ""
    if not plan.refused:
        return Text(f"{plan.scheme.short()}{sparse}")
    made, preferred = _told_apart(plan.scheme, plan.refused[0].scheme)
    return Text(f"{made}{sparse}").append(f"\nnot {preferred}", style="bold yellow")


def _told_apart(made: QuantScheme, preferred: QuantScheme) -> tuple[str, str]:
    """Their short names, or longer ones where these are the same."""
    short = made.short(), preferred.short()
    return short if len(set(short)) == 2 else (made.describe(), preferred.describe())


def _share(share: float) -> str:
    """In whole percents; what is not nothing is not 0 %, and what is not everything not 100 %."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"
