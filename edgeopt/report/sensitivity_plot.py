"""What each layer's channels are worth, as an SVG: a row per layer, a column per amount, darker where more is lost."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.report.svg import literal, svg
from edgeopt.report.text import one_line
from edgeopt.support.files import write_atomic

if TYPE_CHECKING:
    from edgeopt.compress.advice.sensitivity import Sensitivity

_ROW, _COLUMN, _MARGIN = 0.28, 0.9, 1.3
"""Inches."""
_NAME = 44
_DARK = 0.6
"""Of the greatest loss: from there on text is white."""


def write_sensitivity(found: "Sensitivity", path: Path) -> None:
    """Writes ``path``. Layers that were not scanned have no row; a title says how many they are."""
    write_atomic(path, _drawn(found))


def _drawn(found: "Sensitivity") -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.layer for point in found.points))
    drops = {(point.layer, point.amount): found.base - point.score for point in found.points}
    rows = [[drops.get((name, amount), float("nan")) for amount in found.amounts] for name in names]
    most = max((drop for drop in drops.values() if drop > 0), default=1.0)
    labels = [_label(name, found.macs) for name in names]
    width = 0.085 * max(map(len, labels), default=0) + _COLUMN * len(found.amounts) + _MARGIN
    figure = Figure(figsize=(width, _ROW * len(names) + _MARGIN), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    image = axes.imshow(rows, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for y, row in enumerate(rows):
        for x, drop in enumerate(row):
            if drop == drop:  # a point for which the time did not suffice is not a number
                axes.text(x, y, f"{drop:.3f}", ha="center", va="center", fontsize=8, color="w" if drop > _DARK * most else "k")
    axes.set_xticks(range(len(found.amounts)), [f"{amount:.0%}" for amount in found.amounts])
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xlabel(f"of the layer's channels ({literal(found.technique)}, nothing trained)", fontsize=9)
    axes.set_title(_title(found), fontsize=10)
    figure.colorbar(image, ax=axes, label=f"loss in {literal(found.metric)}")
    return svg(figure)


def _label(name: str, macs: dict[str, int]) -> str:
    """The layer's name, its end if it is long, and its share of the work."""
    name = one_line(name) or "the model itself"
    shown = name if len(name) <= _NAME else "…" + name[1 - _NAME :]
    return literal(f"{shown}  {macs.get(name, 0) / max(sum(macs.values()), 1):.0%}")


def _title(found: "Sensitivity") -> str:
    unscanned = f", {len(found.unscanned)} layers not reached in time" if found.unscanned else ""
    return f"{literal(found.metric)} {found.base:.3f} untouched{unscanned}"
