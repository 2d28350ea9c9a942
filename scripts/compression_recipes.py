"""Tables whose rows are recipes, run as ``edgeopt compress`` runs them and exported: bench_compression.py prints them."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeopt.bundle.bundle import Bundle
from edgeopt.core import TWIN, Format, TargetResult
from edgeopt.recipe.measure import packed_bytes
from edgeopt.recipe.outcome import Outcome
from edgeopt.recipe.run import compress
from edgeopt.recipe.schema import read
from edgeopt.report.compress_view import short
from edgeopt.report.text import size
from edgeopt.support.cache import default_root
from edgeopt.support.files import make_folder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Lines = Iterator[list[str]]
"""Cells of a table, its head first."""
Artifacts = Mapping[str, tuple[str, Format]]
"""Columns, each with the target and the format of its artifact."""
ARTIFACTS: Artifacts = {
    "ONNX fp32": (TWIN, "onnx"), "TFLite fp32": (TWIN, "tflite"),
    "ONNX int8": ("x86-fbgemm", "onnx"), "TFLite int8": ("arm-xnnpack", "tflite"),
}  # fmt: skip
IN_FLOAT = {column: key for column, key in ARTIFACTS.items() if key[0] == TWIN}


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an example and the steps of a recipe; no steps are the original."""

    name: str
    example: str
    steps: str
    trains: bool = True

    def run(self, out: Path, targets: Iterable[str]) -> tuple[Outcome, Bundle]:
        """Runs it for ``targets``; steps that another row of the table has done already are taken from ``out``."""
        code = f"{EXAMPLES / self.example}.py"
        training = f'[training]\ntrain_step = "{code}:train_step"\nbatches = "{code}:batches"' if self.trains else ""
        path = out / "recipe.toml"
        path.write_text(
            "\n".join((f'model = "{code}:model"', training, self.steps, "[export]", f"targets = {sorted(targets)}"))
        )
        return compress(read(path), out / "run"), Bundle.load(out / "run" / "bundle")


def step(technique: str, **settings: object) -> str:
    """One ``[[step]]``."""
    lines = [f"{key} = {value!r}".replace("True", "true").replace("False", "false") for key, value in settings.items()]
    return "\n".join(("[[step]]", f'technique = "{technique}"', *lines))


def rows(cases: tuple[Case, ...], artifacts: Artifacts) -> Lines:
    """The head, then a row per case; latencies as shares of the first case's."""
    integers = ", ".join(column for column in artifacts if "int8" in column)
    yield ["recipe", "accuracy", "parameters", "MACs", "fp32 zstd", *artifacts, *([f"accuracy of {integers}"] * bool(integers))]
    first: dict[str, float] = {}
    targets = {target for target, _ in artifacts.values()}
    with tempfile.TemporaryDirectory() as folder, timed_anew(Path(folder)):
        for case in cases:
            outcome, bundle = case.run(Path(folder), targets - {TWIN} or targets)
            results = {(result.target, result.format): result for result in bundle.manifest.results}
            yield _row(case, outcome, bundle, {column: results[key] for column, key in artifacts.items()}, first)


@contextmanager
def timed_anew(folder: Path) -> Iterator[None]:
    """Exports keep what they made, latencies too: here only within one table. The examples' weights are found as ever."""
    cache, before = make_folder(folder / "cache"), os.environ.get("EDGEOPT_CACHE")
    (cache / "examples").symlink_to(make_folder(default_root() / "examples"))
    os.environ["EDGEOPT_CACHE"] = str(cache)
    try:
        yield
    finally:
        os.environ.pop("EDGEOPT_CACHE")
        if before is not None:
            os.environ["EDGEOPT_CACHE"] = before


def _row(case: Case, outcome: Outcome, bundle: Bundle, made: dict[str, TargetResult], first: dict[str, float]) -> list[str]:
    """``first``: the first row's milliseconds by column; filled by the first row."""
    for column, result in made.items():
        first.setdefault(column, result.latency.median_ms if result.latency else float("nan"))
    kept = outcome.kept
    integers = [_score(result.accuracy) for column, result in made.items() if "int8" in column]
    return [
        case.name, _score(kept.scores), short(kept.size.parameters), short(kept.size.macs), size(kept.size.zstd_bytes),
        *(_artifact(bundle, result, "int8" in column, first[column]) for column, result in made.items()),
        *([", ".join(integers)] * bool(integers)),
    ]  # fmt: skip


def _score(scores: Mapping[str, float]) -> str:
    """The first number of ``evaluate``."""
    return f"{next(iter(scores.values())):.4f}" if scores else "-"


def _artifact(bundle: Bundle, result: TargetResult, packed: bool, first_ms: float) -> str:
    """Its bytes, these ``packed`` (of floats the module's column tells it), its latency."""
    if result.artifact is None or result.latency is None:
        return result.status
    ms = result.latency.median_ms
    zstd = f"zstd {size(packed_bytes(bundle.artifact_path(result)))}, " if packed else ""
    return f"{size(result.artifact.bytes)}, {zstd}{ms:.3f} ms ({ms / first_ms:.2f})"


FASHION, VOWELS, MINILM = "fashion_mnist", "japanese_vowels", "minilm"
AS_IT_IS, ORIGINAL = "the network as it is", step("magnitude", sparsity=0.0)
HALF = {"measure": "macs", "amount": 0.5}
ACTIVATION = HALF | {"importance": "activation", "multiple": 16, "learning_rate": 2e-3}
DISTILLED = step("distill", student=f"{EXAMPLES}/fashion_mnist.py:student", epochs=6)
HALVED = step("channels", **HALF, epochs=4, learning_rate=2e-3)
CASES: dict[str, tuple[Case, ...]] = {
    "pipeline": (
        Case(AS_IT_IS, FASHION, ORIGINAL),
        Case("distilled, 6 epochs", FASHION, DISTILLED),
        Case("the same, then half of the MACs pruned, 4 epochs", FASHION, f"{DISTILLED}\n{HALVED}"),
    ),
    "channels": (
        Case(AS_IT_IS, FASHION, ORIGINAL),
        Case("half of the MACs at once, 4 epochs", FASHION, step("channels", **ACTIVATION, epochs=4)),
        Case("in 3 rounds, 1 + 1 + 2 epochs", FASHION, step("channels", **ACTIVATION, rounds=3, epochs_between=1, epochs=2)),
        Case("in 3 rounds, 1 + 1 + 4 epochs", FASHION, step("channels", **ACTIVATION, rounds=3, epochs_between=1, epochs=4)),
    ),
    "weights": (
        Case(AS_IT_IS, FASHION, ORIGINAL),
        Case("80% of the weights zero, 2 epochs", FASHION, step("magnitude", sparsity=0.8, epochs=2)),
        Case("2:4 by magnitude, 1 epoch", FASHION, step("nm", epochs=1)),
        Case("2:4 by SparseGPT, not trained", FASHION, step("nm", method="sparsegpt")),
        Case("16 centroids per tensor, 1 epoch", FASHION, step("cluster", epochs=1)),
        Case("low rank, 2 epochs", FASHION, step("low-rank", epochs=2)),
    ),
    "recurrent": (
        Case(AS_IT_IS, VOWELS, ORIGINAL),
        Case("80% of the weights zero, 20 epochs", VOWELS, step("magnitude", sparsity=0.8, epochs=20)),
        Case("16 centroids per tensor", VOWELS, step("cluster")),
    ),
    "transformers": (
        Case(AS_IT_IS, MINILM, ORIGINAL, trains=False),
        Case("one layer of 6 less", MINILM, step("layers", count=1), trains=False),
        Case("two layers less", MINILM, step("layers", count=2), trains=False),
        Case("half of the heads", MINILM, step("heads", amount=0.5), trains=False),
        Case("a quarter of the MLP's channels", MINILM, step("channels", amount=0.25), trains=False),
    ),
}  # fmt: skip
PARTS = {part: partial(rows, cases, IN_FLOAT if part == "transformers" else ARTIFACTS) for part, cases in CASES.items()}
