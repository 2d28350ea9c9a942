"""The status of every architecture on every target: measured, kept in expected.toml, and shown in docs/architectures.md."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import edgeopt
from edgeopt.core import TargetResult

TARGETS = ("portable-fp32", "arm-xnnpack", "arm-ort", "x86-fbgemm", "apple-ane", "apple-ane-fp16")
EXPECTED = Path(__file__).with_name("expected.toml")

BLOCKS = (
    "## Blocks",
    "",
    "`tests/matrix/blocks.py` has sixteen blocks of well-known networks (MobileNetV3 and V4, EfficientNet, GhostNet, RepVGG,",
    "FastViT, ShuffleNet, ConvNeXt, YOLO's C3 and SPPF, Inception, DenseNet, DeepLab's ASPP, a U-Net's decoder, FPN, a gated",
    "TCN, SSD heads) with norms and weights that are not trivial. They are exported to the same targets, and each output is",
    "compared with the module's own, in float channel by channel.",
)

# From worst to best. "fallback": an artifact in a scheme that the target prefers less, such as fp16 for W8A8.
STATUSES = ("failed", "skipped", "fallback", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One architecture on one target and format. ``ratio``: time here over the fp32 twin's, where the artifact runs here."""

    column: str
    status: str
    sqnr_db: float | None = None
    ratio: float | None = None
    cause: str = ""


def measure(model: edgeopt.Model, out: Path, jobs: int) -> tuple[Cell, ...]:
    """Exports ``model`` to every target of the matrix."""
    bundle = edgeopt.export(model, targets=TARGETS, out=out, jobs=jobs, use_cache=False)
    return tuple(map(cell, bundle.manifest.results))


def cell(result: TargetResult) -> Cell:
    """What the table shows of one result."""
    column = f"{result.target} {result.format}" if result.target == "portable-fp32" else result.target
    fell_back = result.plan is not None and bool(result.plan.refused)
    status = "fallback" if result.status == "ok" and fell_back else result.status
    sqnr = next((verdict.value for verdict in result.verdicts if verdict.check == "sqnr_float"), None)
    decisions = () if result.plan is None else result.plan.decisions
    why = result.reason or (
        " ".join(decision.reason for decision in decisions if decision.subject == "scheme") if fell_back else ""
    )
    ratio = result.latency.ratio if result.latency else None
    return Cell(column=column, status=status, sqnr_db=sqnr, ratio=ratio, cause=why)


def read_expected() -> dict[str, dict[str, str]]:
    """Architecture -> column -> status."""
    return {name: dict(row) for name, row in tomllib.loads(EXPECTED.read_text(encoding="utf-8")).items()}


def write_expected(rows: Mapping[str, Iterable[Cell]]) -> None:
    """Replaces expected.toml."""
    lines = ["# Written by scripts/matrix.py. A status may only improve: failed < skipped < fallback < ok."]
    for name, cells in rows.items():
        lines += ["", f"[{name}]", *(f'"{cell.column}" = "{cell.status}"' for cell in cells)]
    EXPECTED.write_text("\n".join(lines) + "\n", encoding="utf-8")


def changes(expected: Mapping[str, str], cells: Iterable[Cell]) -> tuple[list[str], list[str]]:
    """What got worse and what got better, a line each; a column that is new or gone counts as worse."""
    found = {cell.column: cell for cell in cells}
    worse: list[str] = []
    better: list[str] = []
    for column in sorted(expected.keys() | found.keys()):
        if column not in found or column not in expected:
            worse.append(f"{column}: {'not made' if column not in found else 'not in the table'}")
            continue
        before, after = STATUSES.index(expected[column]), STATUSES.index(found[column].status)
        line = f"{column}: {expected[column]} -> {found[column].status} {found[column].cause}".rstrip()
        if after != before:
            (worse if after < before else better).append(line)
    return worse, better


def markdown(rows: Mapping[str, tuple[Cell, ...]]) -> str:
    """docs/architectures.md: the table, then each failure and fallback with its cause."""
    columns = [cell.column for cell in next(iter(rows.values()))]
    lines = [
        "# Architectures",
        "",
        "Small networks with random weights (`tests/matrix/architectures.py`), exported to every kind of target. Written by",
        "`scripts/matrix.py`. A cell is the SQNR against the float model in dB and, where the artifact ran on the machine that",
        "wrote this page, its time over its fp32 twin's; networks this small show operator coverage, not speed.",
        "",
        "| architecture | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(map(shown, cells)) + " |" for name, cells in rows.items()]
    notes = [
        f"- {name}, {cell.column} ({cell.status}): {one_line(cell.cause)}"
        for name, cells in rows.items()
        for cell in cells
        if cell.cause
    ]
    return "\n".join([*lines, "", "## Failures and fallbacks", "", *(notes or ["None."]), "", *BLOCKS]) + "\n"


def shown(cell: Cell) -> str:
    """Such as ``ok, 31 dB, 0.55``."""
    parts = [cell.status]
    if cell.sqnr_db is not None:
        parts.append(f"{cell.sqnr_db:.0f} dB")
    if cell.ratio is not None:
        parts.append(f"{cell.ratio:.2f}")
    return ", ".join(parts)


def one_line(text: str) -> str:
    """``text`` without line breaks and with nothing that Markdown would take for markup of a table or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")
