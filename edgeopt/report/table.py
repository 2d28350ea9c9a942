"""The table at the end of an export, and below it every failure and warning in full."""

import math
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgeopt.core import AS_WRITTEN, SPEED_LIMIT, TWIN, Format, Manifest, TargetResult, Verdict
from edgeopt.model.slices import falls, slices
from edgeopt.report.console import headed, output, paragraph
from edgeopt.report.scheme_cells import NONE, add_scheme_columns, scheme_cells
from edgeopt.report.text import counted, plain, size
from edgeopt.support.quantities import written

_STYLES = {"ok": "green", "unverified": "bold yellow", "failed": "bold red", "skipped": "dim"}
_METRIC_WIDTH = 10
_WORST_SLICES, _LEAST_FALL = 3, 0.0005
_ANY_WIDTH = 10_000


def print_table(manifest: Manifest, out: Path, console: Console | None = None) -> None:
    """Prints what became of every target; ``out`` is the bundle's folder."""
    console = console or output()
    console.print()
    if any(not result.calibrated for result in manifest.results):
        _warn_uncalibrated(console)
    _print_results(console, manifest)
    _print_float_model(console, manifest)
    headed(console, "Slices that fell the most", "bold", _fallen(manifest))
    for heading, style, notes in (
        ("Failed", "bold red", _failures(manifest)),
        ("Not verified", "bold yellow", _reasons(manifest, "unverified")),
        ("Skipped", "bold", _reasons(manifest, "skipped")),
        ("Warnings", "bold yellow", _warnings(manifest)),
    ):
        headed(console, heading, style, notes)
    console.print()
    paragraph(console, f"bundle: {out} (manifest.json says everything, SHA256SUMS proves it)")


def _warn_uncalibrated(console: Console) -> None:
    text = (
        "UNCALIBRATED: no calibration data was given, so the ranges of the integer artifacts come from the example input "
        "alone. Expect them to lose accuracy on real data. Give data with --calibration file.py:function."
    )
    paragraph(console, text, style="bold yellow")
    console.print()


def _print_results(console: Console, manifest: Manifest) -> None:
    """One table where it is as wide as the console or less, else one of the numbers and one of the schemes.

    Intervals are left out where not even the numbers have room beside them: how many rows there are is told below.
    """
    sure = any(verdict.interval for result in manifest.results for verdict in _agreements(result))
    whole = _table(manifest, with_schemes=True, sure=sure)
    if _fits(console, whole):
        console.print(whole)
        return
    numbers = _table(manifest, with_schemes=False, sure=sure)
    console.print(numbers if _fits(console, numbers) else _table(manifest, with_schemes=False, sure=False))
    console.print()
    table = _started()
    add_scheme_columns(table)
    for result in manifest.results:
        if result.plan is not None:
            table.add_row(plain(result.target), result.format, *scheme_cells(result))
    console.print(table)


def _fits(console: Console, table: Table) -> bool:
    return Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum <= console.width


def _started() -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True)
    table.add_column("format", no_wrap=True)
    return table


def _table(manifest: Manifest, *, with_schemes: bool, sure: bool) -> Table:
    metric = _metric(manifest)
    table = _started()
    if with_schemes:
        add_scheme_columns(table)
    agreement = ("agree", "95 %") if sure else ("agree",)
    for header in ("size", "of\nfp32", "SQNR\ndB", *agreement, *([metric] if metric else []), "ms\nhere", "of\nfp32"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict")
    twins = {result.format: result for result in manifest.results if result.target == TWIN}
    for result in manifest.results:
        cells = list(scheme_cells(result)) if with_schemes else []
        cells += [_size(result), _size_ratio(result, twins), _sqnr(result), _agreement(result)]
        cells += [_agreement_interval(result)] if sure else []
        cells += [_accuracy(result, metric)] if metric else []
        table.add_row(plain(result.target), result.format, *cells, _latency(result), _speed(result), _verdict(result))
    return table


def _metric(manifest: Manifest) -> str:
    """The first number that ``evaluate`` returned: the one the gate judges."""
    sources = (manifest.model.accuracy, *(result.accuracy for result in manifest.results))
    return next((_short(next(iter(accuracy))) for accuracy in sources if accuracy), "")


def _short(name: str) -> str:
    name = plain(name)
    return name if len(name) <= _METRIC_WIDTH else name[: _METRIC_WIDTH - 1] + "…"


def _number(result: TargetResult, check: str) -> float | None:
    return next((verdict.value for verdict in result.verdicts if verdict.check == check), None)


def _size(result: TargetResult) -> str:
    return size(result.artifact.bytes) if result.artifact else NONE


def _size_ratio(result: TargetResult, twins: dict[Format, TargetResult]) -> str:
    twin = twins.get(result.format)
    if result.artifact is None or twin is None or twin.artifact is None:
        return NONE
    return f"{result.artifact.bytes / twin.artifact.bytes:.2f}"


def _sqnr(result: TargetResult) -> str:
    """Against the model, of the worst part: what a user loses. What lowering adds is a check of its own (sqnr_program)."""
    values = [_number(result, check) for check in ("sqnr_float", "sqnr_float_channel")]
    known = [value for value in values if value is not None]
    return f"{min(known):.1f}" if known else NONE


def _agreements(result: TargetResult) -> list[Verdict]:
    return [verdict for verdict in result.verdicts if verdict.check == "top1_agreement" and verdict.value is not None]


def _agreement(result: TargetResult) -> str:
    """All is told from nearly all, and takes no more room."""
    shown = [f"{verdict.value:.1%}" if verdict.value != 1 else "100%" for verdict in _agreements(result)]
    return next(iter(shown), NONE)


def _agreement_interval(result: TargetResult) -> str:
    """In whole percents: the shares from the first to the last that the samples leave likely."""
    intervals = (verdict.interval for verdict in _agreements(result) if verdict.interval)
    return next((f"{math.floor(least * 100)}-{math.ceil(most * 100)}" for least, most in intervals), NONE)


def _accuracy(result: TargetResult, metric: str) -> str:
    values = {_short(name): value for name, value in result.accuracy.items()}
    return f"{values[metric]:.3f}" if metric in values else NONE


def _latency(result: TargetResult) -> str:
    if result.latency is None:
        return NONE
    time = result.latency.median_ms
    return f"{time:.3f}" if time < 0.1 else f"{time:.2f}"


def _slower(result: TargetResult) -> Text:
    """Loud where this CPU is of the target's kind, else quiet: then the choice is the target's, and is judged there."""
    judged = next((verdict for verdict in result.verdicts if verdict.check == "speed"), None)
    if judged is None or judged.value is None or judged.value <= SPEED_LIMIT:
        return Text()
    return Text(" slower here", style="dim") if judged.passed else Text(" SLOWER", style="bold yellow")


def _speed(result: TargetResult) -> Text:
    if result.latency is None:
        return Text(NONE)
    return Text(f"{result.latency.ratio:.2f}", style=_slower(result).style)


def _verdict(result: TargetResult) -> Text:
    word = {"failed": "FAILED", "unverified": "NOT VERIFIED"}.get(result.status, result.status)
    text = Text(word, style=_STYLES[result.status])
    if any(verdict.compared == AS_WRITTEN for verdict in result.verdicts):
        text.append(" as written", style="dim")
    if result.plan is not None and result.plan.refused:
        text.append(" GAVE WAY", style="bold yellow")
    if result.status == "ok":
        text.append(_slower(result))
    if not result.calibrated:
        text.append(" UNCALIBRATED", style="bold yellow")
    return text


def _print_float_model(console: Console, manifest: Manifest) -> None:
    model = manifest.model
    facts = [counted(model.parameters, "parameter"), counted(model.macs, "multiply-accumulate")]
    metric = next(iter(model.accuracy), "")
    parts = slices(model.accuracy, metric)
    sure = {} if model.accuracy_interval is None else {metric: " (95 %: {:.3f} to {:.3f})".format(*model.accuracy_interval)}
    facts += [f"{name} {value:.3f}{sure.get(name, '')}" for name, value in model.accuracy.items() if name not in parts]
    facts += [f"{counted(len(parts), 'slice')} of {metric}"] * bool(parts)
    against = f"SQNR and agreement are against it{_counted_on(manifest)}."
    console.print()
    paragraph(console, f"{model.name} in PyTorch float32: {', '.join(facts)}. {against}", style="dim")


def _counted_on(manifest: Manifest) -> str:
    """How many rows agreement is of, where they are the user's."""
    rows = sorted({verdict.rows for result in manifest.results for verdict in _agreements(result) if verdict.rows})
    if not rows:
        return ""
    return f"; agreement is of {counted(rows[-1], 'row') if len(rows) == 1 else f'{rows[0]:,} to {rows[-1]:,} rows'} held out"


def _fallen(manifest: Manifest) -> dict[str, list[str]]:
    """Of each artifact the few slices that fell the most, where that shows in as many digits as the table has."""
    notes: dict[str, list[str]] = {}
    model = manifest.model.accuracy
    names = slices(model, next(iter(model), ""))
    for result in manifest.results:
        fell = [fall for fall in falls(model, result.accuracy, names) if fall.lost >= _LEAST_FALL]
        if fell:
            told = ", ".join(f"{fall.name} {fall.before:.3f} to {fall.after:.3f}" for fall in fell[:_WORST_SLICES])
            notes.setdefault(told, []).append(_label(result))
    return notes


def _label(result: TargetResult) -> str:
    return f"{result.target}/{result.format}"


def _failures(manifest: Manifest) -> dict[str, list[str]]:
    notes = _reasons(manifest, "failed")
    for result in manifest.results:
        if result.status == "failed":
            for verdict in result.verdicts:
                if not verdict.passed:
                    notes.setdefault(_describe(verdict), []).append(_label(result))
    return notes


def _describe(verdict: Verdict) -> str:
    value = "no number" if verdict.value is None else written(verdict.value, verdict.unit)
    limit = "" if verdict.limit is None else f", limit {written(verdict.limit, verdict.unit)}"
    notes = ", ".join(filter(None, (verdict.part, verdict.note, verdict.compared and f"compared: {verdict.compared}")))
    return f"check {verdict.check}: {value}{limit}" + (f" ({notes})" if notes else "")


def _reasons(manifest: Manifest, status: str) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for result in manifest.results:
        if result.status == status and result.reason:
            notes.setdefault(result.reason, []).append(_label(result))
    return notes


def _warnings(manifest: Manifest) -> dict[str, list[str]]:
    """Each warning once, with everything it concerns."""
    notes: dict[str, list[str]] = {}
    for result in manifest.results:
        for warning in result.warnings:
            notes.setdefault(warning, []).append(_label(result))
    return notes
