"""``edgeopt compress``: a row per step, what each did layer by layer, and what it cost in every number of ``evaluate``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgeopt.core import TWIN
from edgeopt.model.slices import falls
from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted, one_line, plain, size

if TYPE_CHECKING:
    from edgeopt.compress.technique import LayerChange, Record
    from edgeopt.recipe.outcome import Goal, MadeFor, Outcome, Worth

_NONE = "-"
_FIRST_FEW = 3
_WORST = 3


def print_outcome(outcome: "Outcome", out: Path, *, verbose: bool = False, console: Console | None = None) -> None:
    """Prints the whole; of the layers that share a reason the first few, or all where ``verbose``."""
    console = console or output()
    console.print()
    console.print(_table(outcome))
    for step in outcome.steps:
        console.print()
        paragraph(console, f"{step.number} {step.technique}", style="bold")
        _print_record(console, step.record, None if verbose else _FIRST_FEW)
        if step.goal is not None:
            _print_goal(console, step.goal, step.measured.ms_of(outcome.target), outcome.device)
        if step.reason:
            paragraph(
                console, f"stopped: {step.reason}; what was there before this step is kept", indent=2, style="bold yellow"
            )
    _print_slices(console, outcome)
    if outcome.target:
        paragraph(console, f"ms: median on {one_line(outcome.device)}, one thread", style="dim")
    for note in outcome.notes:
        paragraph(console, note, style="dim")
    console.print()
    _print_summary(console, outcome, out)


def _table(outcome: "Outcome") -> Table:
    metric = next(iter(outcome.original.scores), "")
    made = [(artifact.target, artifact.format) for artifact in outcome.original.artifacts if artifact.target == outcome.target]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("step", no_wrap=True)
    headers = ["para-\nmeters", "MACs", "fp32\nzstd", *([one_line(metric)] if metric else [])]
    for target, kind in made:
        headers += [f"{one_line(target)}\n{kind}", "\nzstd", "ms", "of\noriginal", *([one_line(metric)] if metric else [])]
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict")
    rows = [("original", outcome.original, "")]
    rows += [(f"{step.number} {step.technique}", step.measured, step.status) for step in outcome.steps]
    for name, measured, verdict in rows:
        table.add_row(one_line(name), *_figures(measured, metric), *_made(outcome, measured, made, metric), verdict)
    return table


def _figures(measured: "Worth", metric: str) -> list[str]:
    found = measured.size
    cells = [short(found.parameters), short(found.macs), size(found.zstd_bytes)]
    return cells + ([_number(measured.scores.get(metric))] if metric else [])


def _made(outcome: "Outcome", measured: "Worth", made: Sequence[tuple[str, str]], metric: str) -> Iterator[str]:
    for key in made:
        now, before = _artifact(measured, key), _artifact(outcome.original, key)
        yield size(now.bytes) if now and now.bytes is not None else (now.status if now else _NONE)
        yield size(now.zstd_bytes) if now and now.zstd_bytes is not None else _NONE
        yield _number(now.ms if now else None, 3)
        yield f"{now.ms / before.ms:.2f}" if now and before and now.ms and before.ms else _NONE
        if metric:
            yield _number(now.scores.get(metric) if now else None)


def _artifact(measured: "Worth", key: tuple[str, str]) -> "MadeFor | None":
    return next((artifact for artifact in measured.artifacts if (artifact.target, artifact.format) == key), None)


def _print_record(console: Console, record: "Record", limit: int | None) -> None:
    reasons: dict[tuple[str, str], list[LayerChange]] = {}
    for layer in record.layers:
        reasons.setdefault((layer.action, layer.reason), []).append(layer)
    for (action, reason), layers in reasons.items():
        because = f": {reason}" if reason else ""
        paragraph(console, f"{action} {counted(len(layers), 'layer')}{because}", indent=2)
        shown = [_change(layer) for layer in layers[:limit]]
        more = f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else ""
        paragraph(console, "; ".join(shown) + more, indent=4, style="dim")
    for note in record.notes:
        paragraph(console, note, indent=2)


def _print_goal(console: Console, goal: "Goal", ms: float | None, device: str) -> None:
    reached = next(trial.said for trial in goal.trials if trial.amount == goal.amount)
    asked = f"{goal.share:g} of the original's {goal.original_ms:.3g} ms on {one_line(device)}"
    found = f"reached with amount {goal.amount:.2f} ({reached}), the smallest of {len(goal.trials)} tried"
    paragraph(console, f"latency: the goal, {asked}, is {goal.ms:.3g} ms; {found}", indent=2)
    paragraph(console, "; ".join(trial.text for trial in goal.trials), indent=4, style="dim")
    if ms is not None and ms > goal.ms:
        said = f"measured again after fine-tuning: {ms:.3g} ms, {ms / goal.ms - 1:.1%} above the goal, as times vary there"
        paragraph(console, said, indent=2, style="yellow")


def _change(layer: "LayerChange") -> str:
    name = layer.layer or "(the model)"
    if layer.before and layer.after:
        return f"{name} {layer.before} to {layer.after}"
    return f"{name} {layer.before or layer.after}".strip()


def _print_slices(console: Console, outcome: "Outcome") -> None:
    """The numbers of ``evaluate`` that fell the most: a small loss on average can be a large one for a class."""
    before, after = outcome.original.scores, outcome.kept.scores
    if len(before) < 2 or not outcome.best:
        return
    console.print()
    paragraph(console, "What fell the most", style="bold")
    for fall in falls(before, after, before)[:_WORST]:
        change = f"{fall.before:.4f} to {fall.after:.4f} ({-fall.lost:+.4f})"
        paragraph(console, f"{one_line(fall.name)}: {change}", indent=2)


def _print_summary(console: Console, outcome: "Outcome", out: Path) -> None:
    was, now = outcome.original.size, outcome.kept.size
    if not outcome.best:
        paragraph(console, "no step was kept: the original is as small as max_drop allows", style="bold yellow")
    else:
        smaller = was.bytes / max(1, now.bytes)
        fewer = f", {was.macs / now.macs:.1f} times fewer MACs" if now.macs else ""
        paragraph(console, f"kept: step {outcome.best}, {smaller:.1f} times smaller in float32{fewer}", style="bold")
    for made in outcome.kept.artifacts:
        twin = _artifact(outcome.original, (TWIN, made.format))
        if made.target == outcome.target and made.bytes and twin and twin.bytes:
            faster = f", {twin.ms / made.ms:.1f} times as fast on {one_line(outcome.device)}" if made.ms and twin.ms else ""
            against = f"against the original in float32 ({size(twin.bytes)} as {made.format})"
            times = f"{twin.bytes / made.bytes:.1f} times smaller{faster}"
            paragraph(console, f"{one_line(made.target)}: {size(made.bytes)}, {times}, {against}", style="bold")
    paragraph(console, f"{plain(str(out))}: outcome.json says everything, accuracy.svg draws it, model.pt2 is the model")


def _number(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def short(count: int) -> str:
    """``72.7 k``, ``7.34 M``: counts of parameters and MACs."""
    value = float(count)
    for unit in ("", "k", "M"):
        if value < 999.5:
            return f"{value:.3g} {unit}".strip()
        value /= 1000
    return f"{value:.3g} G"
