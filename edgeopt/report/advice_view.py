"""``edgeopt advise``: what the model is, the steps that meet the budgets with their figures, and what was refused and why."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgeopt.report.compress_view import short
from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted, one_line, plain, size

if TYPE_CHECKING:
    from edgeopt.compress.advice.advice import Advice, Figures
    from edgeopt.compress.advice.architecture import Architecture
    from edgeopt.compress.advice.sensitivity import Sensitivity

_NONE = "-"
_FIRST_FEW = 5


def print_advice(advice: "Advice", *, verbose: bool = False, console: Console | None = None) -> None:
    """Prints ``advice``; every layer of the model where ``verbose``."""
    console = console or output()
    console.print()
    _print_model(console, advice, verbose)
    console.print()
    console.print(_table(advice))
    if advice.steps:
        console.print()
    for number, step in enumerate(advice.steps, 1):
        paragraph(console, f"{number} {step.technique}: {step.reason}", indent=2)
    if advice.refused:
        console.print()
        paragraph(console, "Not advised", style="bold")
        for refusal in advice.refused:
            paragraph(console, f"{refusal.technique}: {refusal.reason}", indent=2)
    if advice.notes:
        console.print()
        paragraph(console, "Notes", style="bold")
    for note in advice.notes:
        paragraph(console, note, indent=2)


def print_sensitivity(found: "Sensitivity", *, verbose: bool = False, console: Console | None = None) -> None:
    """Prints what the most and the least sensitive layers lose; all of them where ``verbose``."""
    console = console or output()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for amount in found.amounts:
        table.add_column(f"{amount:.0%}", justify="right", no_wrap=True)
    drops = {(point.layer, point.amount): found.base - point.score for point in found.points}
    layers = sorted(
        {point.layer for point in found.points}, key=lambda layer: -max(drops.get((layer, a), 0) for a in found.amounts)
    )
    shown = layers if verbose else layers[:_FIRST_FEW]
    for layer in shown:
        cells = (f"{drops[layer, amount]:.3f}" if (layer, amount) in drops else _NONE for amount in found.amounts)
        table.add_row(one_line(layer), *cells)
    console.print()
    paragraph(console, f"What {found.metric} loses without a share of one layer's channels ({found.technique})", style="bold")
    console.print(table)
    if len(shown) < len(layers):
        paragraph(console, f"and {len(layers) - len(shown)} that lose less: --verbose lists all", style="dim")
    if found.unscanned:
        paragraph(console, f"{counted(len(found.unscanned), 'layer')} not reached in {found.seconds:.0f} s", style="dim")


def _print_model(console: Console, advice: "Advice", verbose: bool) -> None:
    kind, article = advice.architecture.family, "an" if advice.architecture.family == "mlp" else "a"
    family = "a mix" if kind == "mixed" else f"{article} {kind}{' network' if kind == 'recurrent' else ''}"
    paragraph(console, f"{advice.model}: {family}, {_work(advice.architecture)}", style="bold")
    for layer in advice.architecture.layers if verbose else ():
        work = f"{counted(layer.parameters, 'parameter')}, {layer.macs:,} MACs"
        paragraph(console, f"{layer.name}: {layer.kind}, {layer.inputs} -> {layer.outputs}, {work}", indent=2, style="dim")
    budgets = advice.budgets
    wanted = [f"at most {size(budgets.max_bytes)}"] if budgets.max_bytes is not None else []
    wanted += [f"at most {budgets.max_latency_ms:g} ms"] if budgets.max_latency_ms is not None else []
    wanted += [f"a loss of at most {budgets.max_drop:g}"] if budgets.max_drop is not None else []
    paragraph(console, f"target: {advice.target}, numbers as {advice.scheme} (activations / weights)")
    if wanted:
        paragraph(console, f"asked for: {', '.join(wanted)}")


def _work(architecture: "Architecture") -> str:
    shares = sorted(architecture.shares.items(), key=lambda item: -item[1])
    return "multiply-accumulates (MACs): " + ", ".join(f"{share:.1%} {kind}" for kind, share in shares if share >= 0.001)


def _table(advice: "Advice") -> Table:
    timed = advice.before.latency_ms is not None
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("step", overflow="fold")
    for header in ("parameters", "MACs", "left", "expected size", "left", *(["measured ms"] * timed)):
        table.add_column(header, justify="right")
    table.add_row("the model as it is", *_cells(advice.before, advice.before, timed))
    for number, step in enumerate(advice.steps, 1):
        table.add_row(plain(f"{number} {step.describe()}"), *_cells(step.after, advice.before, timed))
    return table


def _cells(figures: "Figures", before: "Figures", timed: bool) -> list[str]:
    ratios = [f"{new / max(old, 1):.0%}" for new, old in ((figures.macs, before.macs), (figures.bytes, before.bytes))]
    cells = [short(figures.parameters), short(figures.macs), ratios[0], size(figures.bytes), ratios[1]]
    return cells + ([_NONE if figures.latency_ms is None else f"{figures.latency_ms:.3g}"] if timed else [])
