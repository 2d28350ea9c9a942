"""What float16 loses is counted without looking at each element where nothing is lost: the counts are those of looking."""

import pytest
import torch
from torch import Tensor

from edgeopt.mil.precision import Watch

NAN, INF = float("nan"), float("inf")


def looked_at(exact: Tensor) -> tuple[int, int, float]:
    rounded = exact.half()
    gone = (rounded == 0) & (exact != 0)
    whole, lost = (float(values.double().square().sum()) for values in (exact, exact[gone]))
    return int((rounded.isinf() & exact.isfinite()).sum()), int(gone.sum()), lost / whole if gone.any() else 0.0


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0, -0.0, 1.0],
        [65519.0, -65519.99],
        [65520.0, 1.0],
        [-65520.0, 1.0],
        [1e30, INF, -INF, 1.0],
        [NAN, 7e4, 1e-9],
        [1e-8, -1e-8, 2.9e-8, 3e-8, 1e-40, 0.0, -0.0, 5.0],
        [1e-8],
    ],
)
def test_what_is_lost_is_counted(values: list[float]) -> None:
    exact = torch.tensor(values, dtype=torch.float32)
    watch = Watch()
    watch.saw("op", "out", "layer", exact, exact.half())
    found = watch.found["out"]
    assert (found.overflowed, found.vanished) == looked_at(exact)[:2]
    assert found.vanished_power == pytest.approx(looked_at(exact)[2], nan_ok=True)


def test_a_part_of_a_tensor_is_counted_alike() -> None:
    exact = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).mul(1e5)[::2, 1::2].T
    watch = Watch()
    watch.saw("op", "out", "layer", exact, exact.half())
    assert watch.found["out"].overflowed == looked_at(exact)[0] > 0
