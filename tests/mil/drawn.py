"""What the tests of operators draw: shapes, tensors, and programs of many cases written in MIL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.mil.precision import Precision
from tests.mil.packages import run_mil

Array = NDArray[Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]
FEW = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
"""Programs of many drawn cases each: of two the first is as small as can be. Made smaller, a failure would cost minutes."""


def shapes(low: int, high: int, size: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """``low`` to ``high`` axes of 1 to ``size``."""
    return st.lists(st.integers(1, size), min_size=low, max_size=high).map(tuple)


def uniform(draw: Draw, shape: Sequence[int], low: float = -4, high: float = 4) -> Tensor:
    """Floats between ``low`` and ``high``."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.empty(tuple(shape)).uniform_(low, high, generator=generator)


def whole(draw: Draw, shape: Sequence[int], low: int = -9, high: int = 9) -> Tensor:
    """int32 from ``low`` up to ``high``."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.randint(low, high + 1, tuple(shape), generator=generator, dtype=torch.int32)


def some_axes(draw: Draw, rank: int) -> tuple[int, ...]:
    """At least one axis, each once, in any order, counted from either end."""
    chosen = draw(st.lists(st.sampled_from(range(rank)), min_size=1, max_size=rank, unique=True))
    return tuple(axis - rank if draw(st.booleans()) else axis for axis in chosen)


@dataclass(frozen=True)
class MilCase:
    """``build(*vars)`` makes a MIL operator of ``inputs``, which must give ``expected``: one array, or a tuple of them."""

    build: Callable[..., Any]
    inputs: tuple[Any, ...]
    expected: Any


def agree_mil(cases: Sequence[MilCase], *, ios: int = 17, precision: Precision = "float32", relative: float = 1e-4) -> None:
    """Asserts that one program of all ``cases`` gives what each expects; floats within ``relative`` of the greatest or of 1."""
    arrays = {f"in_{n}_{k}": np.asarray(each) for n, case in enumerate(cases) for k, each in enumerate(case.inputs)}

    def build(**given: Any) -> tuple[Any, ...]:
        results = [case.build(*(given[f"in_{n}_{k}"] for k in range(len(case.inputs)))) for n, case in enumerate(cases)]
        return tuple(each for result in results for each in _each(result))

    found = run_mil(build, arrays, ios=ios, precision=precision)
    wanted = [np.asarray(each) for case in cases for each in _each(case.expected)]
    for (name, value), want in zip(found.items(), wanted, strict=True):
        assert value.shape == want.shape, f"{name}: {value.shape} for {want.shape}"
        room = relative * float(np.abs(want[np.isfinite(want)]).max(initial=1.0)) if want.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(value.astype(np.float64), want.astype(np.float64), rtol=0, atol=room, err_msg=name)


def _each(results: Any) -> Sequence[Any]:
    return results if isinstance(results, tuple | list) else (results,)
