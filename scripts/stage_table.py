"""The lines that export_stages.py wrote, as a table that shows where an export's time went."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALLEST = 0.05
"""CPU and wall seconds below which a stage gets no line of its own."""


@dataclass(slots=True)
class Stage:
    """All runs of one stage within the same stages, with those within it. Times include what is within."""

    times: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    within: "dict[str, Stage]" = field(default_factory=dict)


def read(lines: Path) -> Stage:
    """The tree of stages, in the order in which they first began."""
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    root = Stage()
    for record in sorted(records, key=lambda record: record["ended"] - record["wall"]):
        found = root
        for name in record["stage"]:
            found = found.within.setdefault(name, Stage())
        found.times += 1
        found.wall += record["wall"]
        found.cpu += record["cpu"]
    return root


def table(lines: Path, manifest: Path, total_cpu: float) -> Iterator[str]:
    """``total_cpu``: user and system seconds of the whole process tree; what no stage explains is told as the rest."""
    root = read(lines)
    yield f"{'stage':<64} {'times':>5} {'wall s':>7} {'CPU s':>7} {'share':>6}"
    yield from _rows(root, 0, total_cpu)
    known = sum(stage.cpu for stage in root.within.values())
    yield _row("forks, ends, logs, and the artifacts' own sessions", 1, "", total_cpu - known, total_cpu)
    yield _row("all", 1, "", total_cpu, total_cpu)
    yield from _shared(json.loads(manifest.read_text(encoding="utf-8")))


def _rows(stage: Stage, depth: int, total: float) -> Iterator[str]:
    for name, inner in stage.within.items():
        if max(inner.cpu, inner.wall) >= SMALLEST:
            yield _row("  " * depth + name, inner.times, f"{inner.wall:.1f}", inner.cpu, total)
            yield from _rows(inner, depth + 1, total)


def _row(name: str, times: int, wall: str, cpu: float, total: float) -> str:
    return f"{name:<64} {times:>5} {wall:>7} {cpu:>7.1f} {cpu / total:>6.1%}"


def _shared(manifest: dict[str, Any]) -> Iterator[str]:
    """Which results are another target's artifact."""
    for result in manifest["results"]:
        for decision in (result["plan"] or {}).get("decisions", ()):
            if decision["choice"].startswith("shared with "):
                yield f"{result['target']}/{result['format']}: made once, {decision['choice']}"
