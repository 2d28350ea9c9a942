"""Accuracy against size and against latency, a point per step, as an SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt.report.svg import literal, svg
from edgeopt.support.files import write_atomic

if TYPE_CHECKING:
    from edgeopt.recipe.outcome import Outcome, Worth

_COLOR, _REFUSED = "#1f5fa8", "#b03a2e"
Point = tuple[float, float, str, bool]
"""Size or latency, score, name, whether the step was kept."""


def write_plot(outcome: "Outcome", path: Path) -> None:
    """Writes ``path``. Without ``evaluate`` there is nothing to draw, and no file."""
    points = [("original", outcome.original, True)]
    points += [(f"{step.number} {step.technique}", step.measured, step.status == "kept") for step in outcome.steps]
    metric = next(iter(outcome.original.scores), "")
    panels = [("parameters, in thousands", [(found.size.parameters / 1e3, *rest) for found, rest in _scored(points)])]
    sized = [(artifact.bytes / 1e3, *rest) for artifact, rest in _made(points, outcome.target) if artifact.bytes]
    timed = [(artifact.ms, *rest) for artifact, rest in _made(points, outcome.target) if artifact.ms]
    panels += [(f"{outcome.target}: kB", sized)] if sized else []
    panels += [(f"{outcome.target}: ms on {outcome.device}", timed)] if timed else []
    if metric and points:
        write_atomic(path, _drawn(panels, metric))


def _scored(points: "Sequence[tuple[str, Worth, bool]]") -> list[tuple[Any, tuple[float, str, bool]]]:
    return [(found, (found.score, name, kept)) for name, found, kept in points if found.score is not None]


def _made(points: "Sequence[tuple[str, Worth, bool]]", target: str | None) -> list[tuple[Any, tuple[float, str, bool]]]:
    """The target's artifacts, with their own score where they have one."""
    found = []
    for name, measured, kept in points:
        for artifact in measured.artifacts:
            score = next(iter(artifact.scores.values()), measured.score)
            if artifact.target == target and score is not None:
                found.append((artifact, (score, name, kept)))
    return found


def _drawn(panels: list[tuple[str, list[Point]]], metric: str) -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    for number, (label, points) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.plot([point[0] for point in points], [point[1] for point in points], color=_COLOR, linewidth=0.8, alpha=0.5)
        for x, y, name, kept in points:
            axes.plot([x], [y], marker="o" if kept else "x", color=_COLOR if kept else _REFUSED)
            axes.annotate(literal(name), (x, y), xytext=(4, 5), textcoords="offset points", fontsize=8)
        axes.set_xlabel(literal(label))
        axes.set_ylabel(literal(metric))
        axes.set_xlim(left=0)
        axes.margins(x=0.18, y=0.18)
        axes.grid(visible=True, alpha=0.3)
    return svg(figure)
