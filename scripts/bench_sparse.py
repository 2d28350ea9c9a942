#!/usr/bin/env python3
"""What 2:4 gains on this GPU: torch's semi-structured kernels, layer by layer, dense against sparse, fp16 and int8.

    .venv/bin/python scripts/bench_sparse.py                       # the shapes of well-known layers
    .venv/bin/python scripts/bench_sparse.py --rows 4096 512x2048  # outputs x inputs of your own

Needs an NVIDIA GPU of compute capability 8.0 or later. A layer is a matrix product: a linear layer of that shape, or a
convolution as its kernels see it (inputs are channels times kernel positions, rows are output pixels).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgeopt.quantize.sparsegpt import by_magnitude  # noqa: E402  this checkout's, wherever the script is started

LAYERS = {
    "MobileNetV2, expansion 160 -> 960": (960, 160),
    "ResNet-50, 3x3 of 256 channels": (256, 2304),
    "ResNet-50, 1x1 1024 -> 2048": (2048, 1024),
    "BERT-base, attention": (768, 768),
    "BERT-base, first of the MLP": (3072, 768),
    "BERT-base, second of the MLP": (768, 3072),
    "LLaMA-7B, first of the MLP": (11008, 4096),
}
"""Outputs and inputs."""
ROWS = 4096
SECONDS = 0.5
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One product of a 2:4 weight, computed in two ways that take and give the same."""

    dense: Callable[[], Tensor]
    sparse: Callable[[], Tensor]


def fp16(outputs: int, inputs: int, rows: int) -> Pair:
    """x W^T, float16 [rows, inputs] -> [rows, outputs]."""
    from torch.sparse import to_sparse_semi_structured

    weight = by_magnitude(torch.randn(outputs, inputs)).half().cuda()
    x = torch.randn(rows, inputs).half().cuda()
    compressed = to_sparse_semi_structured(weight)
    linear = torch.nn.functional.linear
    return Pair(dense=partial(linear, x, weight), sparse=partial(linear, x, compressed))


def int8(outputs: int, inputs: int, rows: int) -> Pair:
    """W x^T, int8 [outputs, inputs] and [rows, inputs]; dense gives int32 [outputs, rows], cuSPARSELt int8 or int32.

    The values are small enough for int8 to hold every result: what cuSPARSELt gives by default.
    """
    from torch.sparse import to_sparse_semi_structured

    weight = by_magnitude(torch.randn(outputs, inputs)).sign().to(torch.int8).cuda()
    x = (torch.rand(rows, inputs) < 8 / inputs).to(torch.int8).cuda()
    compressed = to_sparse_semi_structured(weight)
    return Pair(dense=partial(torch._int_mm, weight, x.t()), sparse=partial(torch.mm, compressed, x.t()))


KINDS: dict[str, Callable[[int, int, int], Pair]] = {"fp16": fp16, "int8": int8}


def median_us(run: Callable[[], Tensor]) -> float:
    """Median microseconds of one call; the timer synchronizes and warms up."""
    return float(Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=SECONDS).median * 1e6)


def unusable() -> str:
    """Why nothing can be measured here; "" where it can."""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU that torch can use"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name()} has no sparse tensor cores: Ampere and later have"
    return ""


def measure(name: str, outputs: int, inputs: int, rows: int) -> None:
    """Prints a line for each kind of number."""
    for kind, make in KINDS.items():
        try:
            pair = make(outputs, inputs, rows)
            dense, sparse = median_us(pair.dense), median_us(pair.sparse)
        except (RuntimeError, NotImplementedError) as error:
            print(f"{name:<36}{outputs:>7} x {inputs:<6}{kind:>6}   refused: {str(error).splitlines()[0][:120]}")
            continue
        print(f"{name:<36}{outputs:>7} x {inputs:<6}{kind:>6}{dense:>10.1f}{sparse:>10.1f}   {dense / sparse:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", metavar="OUTPUTSxINPUTS")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the input (default {ROWS})")
    given = parser.parse_args()
    if reason := unusable():
        sys.exit(f"error: {reason}\n  next step: run this on a machine with such a GPU")
    layers = {shape: tuple(map(int, shape.split("x"))) for shape in given.shapes} or LAYERS
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {given.rows} rows; microseconds, median")
    print(f"{'layer':<36}{'shape':>16}{'':>6}{'dense':>10}{'2:4':>10}   gain")
    for name, (outputs, inputs) in layers.items():
        measure(name, outputs, inputs, given.rows)


if __name__ == "__main__":
    main()
