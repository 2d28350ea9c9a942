"""Weights with few values become tables and indices (``constexpr_lut_to_dense`` of iOS 18), value for value.

coremltools' own palettization has one setting for all weights, and where a weight has more values than a table holds it makes
a greater table, however small the weight. Here nothing is clustered: a weight that does not fit stays as it is.
"""

from itertools import product
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from numpy.typing import NDArray

_BITS = (1, 2, 3, 4, 6, 8)
_NAME = "store_palettes"
_FEWEST_NUMBERS = 512
"""Smaller constants would gain less than an operator takes. Of what gets palettes a quarter: gates may come apart."""
_USERS = {"conv", "conv_transpose", "linear", "matmul", "gather", "lstm", "gru", "rnn"}
"""What has weights. Masks have few values too, and are none."""


@register_pass(namespace="edgeopt", name=_NAME)
class StorePalettes(AbstractGraphPass):  # type: ignore[misc]
    """Replaces weights of two and more axes. Options: ``bits`` of an index at most, ``channels`` that share a table."""

    bits = 8
    channels: int | None = None

    def apply(self, prog: Any) -> None:
        for function in prog.functions.values():
            self._store(function)

    @block_context_manager  # type: ignore[untyped-decorator]
    def _store(self, block: Any) -> None:
        for operation in list(block.operations):
            for inner in operation.blocks:
                self._store(inner)
            if operation.op_type != "const" or any(user.op_type not in _USERS for user in operation.outputs[0].child_ops):
                continue
            if (found := palettes(operation.outputs[0].val, self.bits, self.channels)) is None:
                continue
            indices, lut = found
            stored = Builder.constexpr_lut_to_dense(
                indices=indices, lut=lut, before_op=operation, name=f"{operation.name}_palettized"
            )
            block.replace_uses_of_var_after_op(
                anchor_op=operation, old_var=operation.outputs[0], new_var=stored, no_check_var_types=True
            )
            block.remove_ops([operation])


def pipeline(bits: int, channels: int | None) -> Any:
    """coremltools' passes, and after them this one."""
    found = PassPipeline.DEFAULT
    found.append_pass(f"edgeopt::{_NAME}")
    found.set_options(f"edgeopt::{_NAME}", {"bits": bits, "channels": channels})
    return found


def palettes(value: Any, bits: int, channels: int | None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Indices of ``value``'s shape and tables [*groups, values, 1] as MIL takes them; None where it has too many values.

    One table for the whole, else one for every ``channels`` along the first axis or the second (transposed convolutions).
    """
    if not isinstance(value, np.ndarray) or value.ndim < 2 or value.dtype.kind != "f" or value.size < _FEWEST_NUMBERS:
        return None
    whole = (1,) * value.ndim
    groupings = [whole]
    for axis in (0, 1):
        if channels and value.shape[axis] % channels == 0:
            groupings.append((*whole[:axis], value.shape[axis] // channels, *whole[axis + 1 :]))
    return next((found for groups in groupings if (found := _tables(value, groups, bits)) is not None), None)


def _tables(value: NDArray[Any], groups: tuple[int, ...], most: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
    sizes = [length // count for length, count in zip(value.shape, groups, strict=True)]
    parts = {}
    for place in product(*map(range, groups)):
        inside = tuple(slice(index * size, (index + 1) * size) for index, size in zip(place, sizes, strict=True))
        table, indices = np.unique(value[inside], return_inverse=True)
        if len(table) > 1 << most:
            return None
        parts[place] = inside, table, indices.reshape(sizes)
    bits = next(bits for bits in _BITS if all(len(table) <= 1 << bits for _, table, _ in parts.values()))
    lut = np.zeros((*groups, 1 << bits, 1), value.dtype)
    codes = np.zeros(value.shape, types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}")))
    for place, (inside, table, indices) in parts.items():
        lut[place][: len(table), 0] = table
        codes[inside] = indices
    return codes, lut
