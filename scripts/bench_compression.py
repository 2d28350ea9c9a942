#!/usr/bin/env python3
"""The tables of docs/compression.md: each technique on real data, fine-tuned, exported, timed; half an hour if idle.

    .venv/bin/python scripts/bench_compression.py                     # prints them
    .venv/bin/python scripts/bench_compression.py pipeline channels   # some of them
    .venv/bin/python scripts/bench_compression.py --write             # and puts them into docs/compression.md

Every row is a recipe, run as ``edgeopt compress`` runs it; latencies are this machine's, one thread, and in brackets their
share of the first row's.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.core import TWIN, TargetResult
from edgeopt.recipe.outcome import Outcome
from edgeopt.recipe.run import compress
from edgeopt.recipe.schema import read
from edgeopt.report.compress_view import short
from edgeopt.report.text import size

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DOCUMENT = ROOT / "docs" / "compression.md"
COLUMNS = ("recipe", "accuracy", "parameters", "MACs", "fp32 zstd", "ONNX fp32", "TFLite fp32", "TFLite int8", "int8 accuracy")
TARGETS = ("arm-xnnpack",)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an example and the steps of a recipe; no steps are the original."""

    name: str
    example: str
    steps: str

    def run(self, out: Path) -> tuple[Outcome, Bundle]:
        """Runs it from the start."""
        text = "\n".join((
            f'model = "{EXAMPLES / self.example}.py:model"', "[training]",
            f'train_step = "{EXAMPLES / self.example}.py:train_step"', f'batches = "{EXAMPLES / self.example}.py:batches"',
            self.steps, "[export]", f"targets = {list(TARGETS)}",
        ))  # fmt: skip
        path = out / "recipe.toml"
        path.write_text(text)
        return compress(read(path), out / "run", resume=False), Bundle.load(out / "run" / "bundle")


def step(technique: str, **settings: object) -> str:
    """One ``[[step]]``."""
    lines = [f"{key} = {value!r}".replace("True", "true").replace("False", "false") for key, value in settings.items()]
    return "\n".join(("[[step]]", f'technique = "{technique}"', *lines))


ORIGINAL = step("magnitude", sparsity=0.0)
HALF = {"measure": "macs", "amount": 0.5}
STUDENT = f"{EXAMPLES}/fashion_mnist.py:student"
FASHION, VOWELS, MINILM = "fashion_mnist", "japanese_vowels", "minilm"
PARTS: dict[str, tuple[Case, ...]] = {
    "pipeline": (
        Case("the network as it is", FASHION, ORIGINAL),
        Case("distilled, half of the MACs pruned", FASHION,
             step("distill", student=STUDENT, epochs=6) + "\n" + step("channels", **HALF, epochs=4, learning_rate=2e-3)),
    ),
    "channels": (
        Case("the network as it is", FASHION, ORIGINAL),
        Case("half of the MACs, 4 epochs, in multiples of 16", FASHION,
             step("channels", **HALF, importance="activation", multiple=16, epochs=4, learning_rate=2e-3)),
        Case("the same in 3 rounds, 4 epochs in all", FASHION,
             step("channels", **HALF, importance="activation", multiple=16, rounds=3, epochs_between=1, epochs=2,
                  learning_rate=2e-3)),
    ),
    "weights": (
        Case("80% of the weights zero, 3 epochs", FASHION, step("magnitude", sparsity=0.8, epochs=3)),
        Case("2:4, 3 epochs", FASHION, step("nm", epochs=3)),
        Case("16 centroids per tensor, 2 epochs", FASHION, step("cluster", epochs=2)),
        Case("low rank, 3 epochs", FASHION, step("low-rank", epochs=3)),
    ),
    "recurrent": (
        Case("the network as it is", VOWELS, ORIGINAL),
        Case("80% of the weights zero, 20 epochs", VOWELS, step("magnitude", sparsity=0.8, epochs=20)),
        Case("16 centroids per tensor", VOWELS, step("cluster")),
    ),
}  # fmt: skip


def rows(cases: tuple[Case, ...]) -> Iterator[list[str]]:
    """A row per case; latencies as shares of the first case's."""
    first: dict[tuple[str, str], float] = {}
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            outcome, bundle = case.run(Path(folder))
        results = {(result.target, result.format): result for result in bundle.manifest.results}
        kept = outcome.kept
        cells = [case.name, f"{kept.score:.4f}", short(kept.size.parameters), short(kept.size.macs), size(kept.size.zstd_bytes)]
        for key in ((TWIN, "onnx"), (TWIN, "tflite"), ("arm-xnnpack", "tflite")):
            cells.append(_made(results[key], first.setdefault(key, _ms(results[key]))))
        accuracy = next(iter(results["arm-xnnpack", "tflite"].accuracy.values()), None)
        yield [*cells, "-" if accuracy is None else f"{accuracy:.4f}"]


def _ms(result: TargetResult) -> float:
    return result.latency.median_ms if result.latency else float("nan")


def _made(result: TargetResult, first_ms: float) -> str:
    if result.artifact is None or result.latency is None:
        return result.status
    return f"{size(result.artifact.bytes)}, {result.latency.median_ms:.3f} ms ({result.latency.median_ms / first_ms:.2f})"


def table(cases: tuple[Case, ...], show: Callable[[str], None]) -> str:
    """A Markdown table; ``show`` gets each line as soon as it is known."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for line in lines:
        show(line)
    for row in rows(cases):
        lines.append("| " + " | ".join(row) + " |")
        show(lines[-1])
    return "\n".join(lines)


def put(part: str, text: str) -> None:
    """Replaces the table between ``<!-- part -->`` and ``<!-- end -->``."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"{DOCUMENT} has no <!-- {part} --> ... <!-- end --> to put the table into")
    DOCUMENT.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", document), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/compression.md")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        print(f"\n{part}")
        text = table(PARTS[part], lambda line: print(line, flush=True))
        if arguments.write:
            put(part, text)


if __name__ == "__main__":
    main()
