"""``edgeopt blame``: the layers that cost most, why, where they are, and what can be done."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted, one_line

if TYPE_CHECKING:
    from edgeopt.diagnosis.findings import Blame, Layer, Scores

FIRST_FEW = 12
EXPLAINED = 5
_NONE = "-"


def print_blame(found: "Blame", *, verbose: bool = False, console: Console | None = None) -> None:
    """Prints the worst layers and what is said of them; all of them where ``verbose``."""
    console = console or output()
    console.print()
    _print_head(console, found)
    shown = found.layers if verbose else found.layers[:FIRST_FEW]
    console.print()
    console.print(_table(shown))
    if len(shown) < len(found.layers):
        paragraph(console, f"and {len(found.layers) - len(shown)} that cost less: --verbose lists all", style="dim")
    worst = [layer for layer in found.layers if layer.alone is not None]
    said = worst if verbose else worst[:EXPLAINED]
    _print_said(console, "What is known of the worst", said)
    rest = sorted((one for one in found.layers if one.odd and one not in said), key=lambda layer: -layer.oddness)
    _print_odd(console, rest if verbose else rest[:EXPLAINED])
    if found.notes:
        console.print()
        paragraph(console, "Notes", style="bold")
    for note in found.notes:
        paragraph(console, note, indent=2)


def _print_head(console: Console, found: "Blame") -> None:
    part = f" ({found.part})" if found.part else ""
    paragraph(console, f"{found.model} on {found.target}, {found.scheme.describe()}: {found.whole:.1f} dB{part}", style="bold")
    paragraph(console, f"on {counted(found.samples, 'held-out sample')}, in {found.seconds:.0f} s; {found.calibration}")
    for decision in found.done:
        paragraph(console, f"{decision.subject}: {decision.choice}")
    if found.scores is not None:
        paragraph(console, _scores(found.scores))


def _scores(scores: "Scores") -> str:
    said = f"{scores.metric}: {scores.model:.4g} in float"
    if scores.integers is not None:
        said += f", {scores.integers:.4g} in integers"
    if scores.without_worst is not None:
        said += f", {scores.without_worst:.4g} with {', '.join(scores.worst)} in float"
    return said


def _table(layers: "tuple[Layer, ...]") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("operator", overflow="fold")
    for header in ("in", "alone", "gain", "share", "own", "weights", "range"):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(*_cells(layer))
    return table


def _cells(layer: "Layer") -> tuple[str, ...]:
    gain = _NONE if layer.gain is None else f"{layer.gain:+.1f}"
    share = _NONE if layer.share is None else f"{layer.share:.0%}"
    seen = layer.gives
    ends = _NONE if seen is None else f"{seen.minimum:.3g}..{seen.maximum:.3g}"
    where = "float" if layer.in_float else "8 bits"
    numbers = (_db(layer.alone), gain, share, _db(layer.own), _db(layer.own_weights))
    return (one_line(layer.layer) or "the model itself", one_line(layer.operator), where, *numbers, ends)


def _db(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _print_said(console: Console, heading: str, layers: "list[Layer]") -> None:
    if not layers:
        return
    console.print()
    paragraph(console, heading, style="bold")
    for number, layer in enumerate(layers, 1):
        place = f" ({one_line(layer.line)})" if layer.line else ""
        paragraph(console, f"{number} {one_line(layer.layer)}{place}", indent=2)
        if layer.in_float:
            paragraph(console, f"in float: {one_line(layer.in_float)}", indent=6)
        for said in layer.odd:
            paragraph(console, one_line(said), indent=6)
        if layer.done:
            paragraph(console, f"done: {', '.join(layer.done)}", indent=6)
        paragraph(console, f"remedy: {one_line(layer.remedy)}", indent=6)


def _print_odd(console: Console, layers: "list[Layer]") -> None:
    if not layers:
        return
    console.print()
    paragraph(console, "Unusual, though it costs less", style="bold")
    for layer in layers:
        paragraph(console, f"{one_line(layer.layer)}: {one_line('; '.join(layer.odd))}", indent=2)
