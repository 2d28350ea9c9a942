"""What each layer costs alone and gives back in float, as an SVG: a row per layer, the worst at the top."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.report.svg import literal, svg
from edgeopt.report.text import one_line
from edgeopt.support.files import write_atomic

if TYPE_CHECKING:
    from edgeopt.diagnosis.findings import Blame, Layer

_ROW, _MARGIN, _WIDTH = 0.26, 1.4, 9.0
"""Inches."""
_MOST = 40
_NAME = 44
_INTEGERS, _FLOAT, _OWN = "#1f5fa8", "#b9b9b9", "#b03a2e"


def write_blame(found: "Blame", path: Path) -> None:
    """Writes ``path``; the same findings give the same bytes. Raises OutputError."""
    write_atomic(path, _drawn(found))


def _drawn(found: "Blame") -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    layers = [layer for layer in found.layers if layer.alone is not None][:_MOST]
    figure = Figure(figsize=(_WIDTH, _ROW * max(len(layers), 3) + _MARGIN), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (3, 1)})
    rows = range(len(layers))
    left.barh(rows, [layer.alone for layer in layers], color=[_FLOAT if one.in_float else _INTEGERS for one in layers])
    known = [(layer.own, row) for row, layer in enumerate(layers) if layer.own is not None]
    left.plot([own for own, _ in known], [row for _, row in known], "|", color=_OWN, markersize=9, markeredgewidth=2)
    left.axvline(found.whole, color="k", linewidth=0.8, linestyle=":")
    left.set_yticks(rows, [_label(layer) for layer in layers], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel(
        "SQNR of the model with this layer alone in 8 bits, dB\n(red: of its own result; dotted: with all layers)", fontsize=8
    )
    right.barh(rows, [layer.share or 0.0 for layer in layers], color=_INTEGERS)
    right.set_xlabel("share of the noise", fontsize=8)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in (left, right):
        axes.grid(visible=True, axis="x", alpha=0.3)
    figure.suptitle(f"{literal(found.model)} on {literal(found.target)}: {found.whole:.1f} dB", fontsize=10)
    return svg(figure)


def _label(layer: "Layer") -> str:
    name = one_line(layer.layer) or "the model itself"
    shown = name if len(name) <= _NAME else "…" + name[1 - _NAME :]
    return literal(f"{shown}{' (float)' if layer.in_float else ''}")
