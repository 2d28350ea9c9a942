"""Batches of any size, cut and joined along their first axis into samples of the example's size, in the order of their rows."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgeopt.model.signature import Signature


class Rebatching:
    """Takes one batch after the other: what is left of one is joined with the next, all inputs together.

    ``joined``: whether a sample was made of the rows of several batches. ``shapes``: of the last batch that came.
    """

    def __init__(self, signature: "Signature") -> None:
        self.signature = signature
        self._pending: list[Tensor] = []
        self.joined = False
        self.shapes: list[tuple[int, ...]] = []

    @property
    def left(self) -> int:
        """Rows of the first input that have not filled a sample."""
        return int(self._pending[0].shape[0]) if self._pending else 0

    def add(self, batch: Any, what: str) -> Iterator[tuple[Tensor, ...]]:
        """The samples that are full with ``batch``. Raises InputError, naming ``what``, where it fits in no way."""
        signature = self.signature
        values = signature.checked(batch, what)
        self.shapes = [tuple(value.shape) for value in values]
        if not self._can_be_cut(values):
            yield signature.fitting(values, what)
            return
        waited = self.left
        if self._pending:
            values = [torch.cat((old, new)) for old, new in zip(self._pending, values, strict=True)]
        sizes = [spec.shape[0] for spec in signature.specs]
        whole = values[0].shape[0] // sizes[0]
        for index in range(whole):
            self.joined = self.joined or (waited > 0 and index == 0)
            yield tuple(value[index * size : (index + 1) * size] for value, size in zip(values, sizes, strict=True))
        self._pending = [value[whole * size :].clone() for value, size in zip(values, sizes, strict=True)]

    def _can_be_cut(self, values: list[Tensor]) -> bool:
        """Whether everything but the first axes is the example's, and these are the same multiple, or part, of its own."""
        multiples = set()
        for value, spec in zip(values, self.signature.specs, strict=True):
            if not spec.shape or not spec.shape[0] or value.ndim == 0 or value.shape[1:] != spec.shape[1:]:
                return False
            multiples.add(Fraction(value.shape[0], spec.shape[0]))
        return len(multiples) == 1
