"""``edgeopt bench --layers``: where a model's time goes, layer by layer, and how well the sum foretells the whole."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted, one_line

if TYPE_CHECKING:
    from edgeopt.compress.search.latency_table import Prediction
    from edgeopt.model.latency_table import LatencyTable


def print_layers(
    table: "LatencyTable", prediction: "Prediction", whole_ms: float, path: Path, console: Console | None = None
) -> None:  # fmt: skip
    """Prints the layers of ``prediction``, the slowest first, and its sum beside ``whole_ms``, measured."""
    console = console or output()
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for header in ("ms", "share"):
        shown.add_column(header, justify="right", no_wrap=True)
    shown.add_column("layer", overflow="fold")
    rows = [("whatever it computes, per call", table.overhead_ms or 0.0)]
    rows += sorted(((layer.call, layer.ms) for layer in prediction.layers), key=lambda row: -row[1])
    for call, ms in rows:
        shown.add_row(f"{ms:.3g}", f"{ms / prediction.ms:.0%}" if prediction.ms else "-", one_line(call))
    console.print()
    console.print(shown)
    console.print()
    error = prediction.ms / whole_ms - 1
    words = f"predicted {prediction.ms:.3g} ms, measured as a whole {whole_ms:.3g} ms: the prediction is {abs(error):.0%} too "
    paragraph(console, words + ("high" if error > 0 else "low"), style="bold")
    about = f"{one_line(table.runtime)} on {one_line(table.device)}, {counted(table.threads, 'thread')}"
    paragraph(console, f"{path}: {counted(len(table.layers), 'layer')} of {about}")
