"""An architecture search as an SVG: every architecture by cost and score, the Pareto front as a line with names."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.report.svg import literal, svg
from edgeopt.support.files import write_atomic

if TYPE_CHECKING:
    from edgeopt.compress.search.found import Found

_FRONT, _OTHERS = "#1f5fa8", "#9a9a9a"
_LABELS = {"macs": "MACs", "latency_ms": "latency, ms"}


def write_front(found: "Found", path: Path) -> None:
    """Writes ``path``; the same search always gives the same bytes. Raises OutputError."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        write_atomic(path, _drawn(found))


def _drawn(found: "Found") -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    others = [trial for trial in found.trials if not trial.error and trial not in found.front]
    axes.plot([one.cost(found.cost) for one in others], [one.score for one in others], "o", color=_OTHERS, markersize=4)
    front = [(trial.cost(found.cost), trial.score) for trial in found.front]
    axes.plot([cost for cost, _ in front], [score for _, score in front], "o-", color=_FRONT, linewidth=1, markersize=5)
    for trial, place in zip(found.front, front, strict=True):
        name = literal(trial.name)
        axes.annotate(name, place, xytext=(5, -9), textcoords="offset points", fontsize=7, color=_FRONT)
    if all(cost > 0 for cost, _ in front):
        axes.set_xscale("log")
    source = {trial.latency_source.partition(",")[0] for trial in found.front} - {""}
    axes.set_xlabel(_LABELS[found.cost] + (f" ({', '.join(sorted(source))})" if source else ""))
    axes.set_ylabel(literal(found.metric))
    axes.margins(x=0.15, y=0.12)
    axes.grid(visible=True, alpha=0.3)
    return svg(figure)
