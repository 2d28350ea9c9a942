"""Benchmarks for programs and for pull requests: JSON, CSV and Markdown."""

import csv
import io
import json
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from edgeopt.core import to_json
from edgeopt.report.bench_columns import Cell, Row, columns, first_ns, load_ns, peak_bytes, per_second, typical_ns
from edgeopt.report.bench_notes import legend, sections
from edgeopt.report.text import one_line

if TYPE_CHECKING:
    from edgeopt.bench.types import BenchResult, DeviceRun
    from edgeopt.support.stats import Percentile, Summary

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""What makes a spreadsheet compute a cell (OWASP, CSV Injection), the full-width forms included."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def as_json(runs: "Sequence[DeviceRun]", samples: bool = False) -> str:
    """A list of what ``result.json`` holds for each device; raw samples of latency only with ``samples``, else empty lists."""
    data = [json.loads(to_json(run)) for run in runs]
    if not samples:
        for launch in (launch for run in data for result in run["results"] for launch in _launches(result)):
            launch["samples_ns"] = []
    return json.dumps(data, indent=2) + "\n"


def as_csv(runs: "Sequence[DeviceRun]") -> str:
    """One row per result, and one for a device that has none; times in ms, sizes in bytes, nothing where nothing is known.

    Texts are on one line, and those that a spreadsheet would compute begin with an apostrophe.
    """
    metrics = list(dict.fromkeys(name for run in runs for result in run.results for name in _accuracy(result)))
    records = [_record(run, result, metrics) for run in runs for result in (run.results or (None,))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if records:
        writer.writerow([_guarded(name) for name in records[0]])
    writer.writerows([_guarded(value) for value in record.values()] for record in records)
    return out.getvalue()


def as_markdown(runs: "Sequence[DeviceRun]") -> str:
    """The table as GitHub shows it, with every column, and what the console says below it; texts from outside stay texts."""
    shown = columns(runs)
    lines = [_line([_escaped(column.name) for column in shown]), _line(["---:" if one.right else "---" for one in shown])]
    lines += [_line(map(_cell, cells)) for cells in zip(*(column.cells for column in shown), strict=True)]
    lines += ["", *(f"- {_escaped(sentence)}" for sentence in legend(runs, shown))]
    for heading, _, notes in sections(runs):
        lines += ["", f"**{heading}**", ""] if notes else []
        lines += [f"- {_escaped(', '.join(labels))}: {_code(note)}" for note, labels in notes.items()]
    return "\n".join(lines) + "\n"


def _launches(result: dict[str, Any]) -> list[dict[str, Any]]:
    return result["measurement"]["launches"] if result["measurement"] else []


def _accuracy(result: "BenchResult") -> dict[str, float]:
    return result.measurement.accuracy if result.measurement else {}


def _record(run: "DeviceRun", result: "BenchResult | None", metrics: Sequence[str]) -> dict[str, Any]:
    row = Row(run, result)
    facts, failure = run.facts, result or run
    return {
        "device": run.device, "url": run.url, "model": facts.model if facts else "", "cpu": facts.cpu if facts else "",
        "system": facts.system if facts else "", "started": run.started, "edgeopt_version": run.edgeopt_version,
        **_subject(result),
        "status": result.status if result else "failed" if run.error else "skipped",
        "marks": " ".join(row.measured.marks) if row.measured else "",
        "error": failure.error, "reason": failure.reason,
        "launches": len(row.launches) or None,
        **_latency(row.measured.latency if row.measured else None, *typical_ns(row)),
        "launch_spread": row.measured.launch_spread if row.measured else None,
        "first_ms": _ms(first_ns(row)), "load_ms": _ms(load_ns(row)), "peak_bytes": peak_bytes(row),
        "runs_per_s": per_second(row),
        **_compared(row), **_sustained(row),
        **{f"accuracy {name}": (_accuracy(result) if result else {}).get(name) for name in metrics},
    }  # fmt: skip


def _subject(result: "BenchResult | None") -> dict[str, Any]:
    subject = result.subject if result else None
    return {
        "target": subject.target if subject else "", "path": subject.path if subject else "",
        "format": subject.format if subject else "", "scheme": subject.scheme if subject else "",
        "sha256": subject.sha256 if subject else "", "bytes": subject.bytes if subject else None,
        "calibrated": subject.calibrated if subject else None,
        "threads": result.threads if result else None, "accelerator": result.accelerator if result else "",
    }  # fmt: skip


def _latency(latency: "Summary | None", typical: float | None, average: bool) -> dict[str, Any]:
    """``median_ms`` is also there where a native tool gives it alone; an average stands under ``mean_ms``."""
    found: dict[str, Any] = {"samples": latency.count if latency else None}
    median = None if average or typical is None else typical
    for name in ("median", "p90", "p95", "p99"):
        one: Percentile | None = getattr(latency, name) if latency else None
        value = one.value if one else median if name == "median" else None
        found |= {f"{name}_ms": _ms(value), f"{name}_low_ms": _ms(one.low if one else None)}
        found |= {f"{name}_high_ms": _ms(one.high if one else None)}
    mean = latency.mean if latency else typical if average else None
    return found | {
        "mean_ms": _ms(mean), "stdev_ms": _ms(latency.stdev if latency else None),
        "min_ms": _ms(latency.min if latency else None), "max_ms": _ms(latency.max if latency else None),
    }  # fmt: skip


def _compared(row: Row) -> dict[str, Any]:
    twin = row.run.comparisons.get(row.result.key) if row.result else None
    here = row.measured.agreement if row.measured else None
    return {
        "of_fp32": twin.ratio if twin else None, "of_fp32_p_value": twin.p_value if twin else None,
        "of_fp32_verdict": twin.verdict if twin else "", "bit_exact": here.bit_exact if here else None,
        "sqnr_db": here.sqnr_db if here else None, "max_abs_error": here.max_abs_error if here else None,
    }  # fmt: skip


def _sustained(row: Row) -> dict[str, Any]:
    measured = row.measured
    return {
        "sustained_ms": measured.sustained_ms if measured else None,
        "sustained_ratio": measured.sustained_ratio if measured else None,
        "waited_s": measured.waited_s if measured else None, "discarded": measured.discarded if measured else None,
    }  # fmt: skip


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else round(nanoseconds / 1e6, 6)


def _guarded(value: Any) -> Any:
    """Numbers as they are; a text on one line, without control characters, that no spreadsheet takes for a formula."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if _FORMULA.match(value) or _FORMULA.match(text) else text


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    return _escaped(cell.text) + "".join(f" **{_escaped(mark)}**" for mark in cell.marks)


def _escaped(text: str) -> str:
    """``text`` that GitHub's Markdown shows as it is, in a table too: no HTML, no link, nobody is mentioned."""
    return escape(_MARKDOWN.sub(r"\\\1", one_line(text)), quote=False).replace("@", "@<!-- -->")


def _code(text: str) -> str:
    """``text`` as code, between more backticks than it holds in a row."""
    line = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}"
