"""Operators that some format gets wrong or refuses, written as others that every format has: exact, and before quantization.

Each function is a decomposition for ``ExportedProgram.run_decompositions`` with the operator's own arguments.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from edgeopt.capture import pooling_forms

aten = torch.ops.aten


def table() -> dict[Any, Callable[..., Any]]:
    """The decompositions, by operator."""
    return {
        **pooling_forms.table(),
        aten.conv1d.padding: _named_padding(aten.conv1d.default, 1),
        aten.conv2d.padding: _named_padding(aten.conv2d.default, 2),
        aten.conv3d.padding: _named_padding(aten.conv3d.default, 3),
        aten.convolution.default: convolution,
        aten.pad.default: pad,
        aten.add.Tensor: _scaled(aten.add.Tensor),
        aten.sub.Tensor: _scaled(aten.sub.Tensor),
        aten.rsub.Tensor: lambda x, y, alpha=1: aten.sub.Tensor(y, x * alpha if alpha != 1 else x),
        aten.lerp.Scalar: lerp,
        aten.log_sigmoid.default: log_sigmoid,
        aten.cumsum.default: cumsum,
        aten.cumprod.default: cumprod,
        aten.msort.default: lambda x: aten.sort.default(x, 0)[0],
        aten.argsort.default: lambda x, axis=-1, descending=False: aten.sort.default(x, axis, descending)[1],
        aten.argsort.stable: lambda x, *, stable, dim=-1, descending=False: aten.sort.default(x, dim, descending)[1],
        aten.softmax.int: lambda x, axis, dtype=None: _alone(torch.ones_like, x, axis, dtype),
        aten.log_softmax.int: lambda x, axis, dtype=None: _alone(torch.zeros_like, x, axis, dtype),
        aten._upsample_bilinear2d_aa.vec: _resized(aten._upsample_bilinear2d_aa.vec),
        aten._upsample_bicubic2d_aa.vec: _resized(aten._upsample_bicubic2d_aa.vec),
        aten.fill.Tensor: lambda x, value: value.to(x.dtype).expand(x.shape).clone(),
        aten.fill.Scalar: lambda x, value: torch.full_like(x, value),
        aten.empty.memory_format: lambda size, *, dtype=None, **_: torch.zeros(size, dtype=dtype),
        aten.empty_like.default: lambda x, *, dtype=None, **_: torch.zeros_like(x, dtype=dtype),
        aten.new_empty.default: lambda x, size, *, dtype=None, **_: torch.zeros(size, dtype=dtype or x.dtype),
        aten.squeeze.dim: squeeze,
        aten.squeeze.dims: squeeze,
        aten.argmax.default: _place(aten.argmax.default),
        aten.argmin.default: _place(aten.argmin.default),
        **_of_logic(),
        aten.one_hot.default: one_hot,
        aten.split.Tensor: split,
        aten.lstm.input: projected_lstm,
        aten.rrelu.default: rrelu,
        aten.rrelu_with_noise_functional.default: rrelu_with_noise,
        aten.relu6.default: relu6,
        aten.hardtanh.default: integer_hardtanh,
    }


def _of_logic() -> dict[Any, Callable[..., Any]]:
    """Bits of booleans."""
    return {
        aten.bitwise_not.default: lambda x: aten.logical_not.default(x) if x.dtype == torch.bool else NotImplemented,
        aten.bitwise_xor.Tensor: _of_booleans(aten.ne.Tensor),
        aten.__xor__.Tensor: _of_booleans(aten.ne.Tensor),
        aten.bitwise_and.Tensor: _of_booleans(aten.logical_and.default),
        aten.__and__.Tensor: _of_booleans(aten.logical_and.default),
        aten.bitwise_or.Tensor: _of_booleans(aten.logical_or.default),
        aten.__or__.Tensor: _of_booleans(aten.logical_or.default),
        aten.logical_xor.default: lambda x, y: aten.ne.Tensor(x != 0, y != 0),
    }


def projected_lstm(x: Tensor, state: Sequence[Tensor], *settings: Any) -> Any:
    """An LSTM whose output is narrower than its cell (``proj_size``), step by step: ONNX and Core ML have no such operator."""
    if state[0].shape[-1] == state[1].shape[-1]:
        return NotImplemented
    return decomposition_table[aten.lstm.input](x, state, *settings)


def rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """Outside of training the slope is the mean of its bounds."""
    return NotImplemented if training else aten.leaky_relu.default(x, (lower + upper) / 2)


def rrelu_with_noise(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """The same, with the slopes that only training draws."""
    return NotImplemented if training else (rrelu(x, lower, upper), noise.clone())


def integer_hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Any:
    """On integers, for which Core ML has no such operator."""
    return NotImplemented if x.is_floating_point() else x.clamp(int(low), int(high))


def relu6(x: Tensor) -> Tensor:
    """``functional.relu6`` as ``nn.ReLU6`` has it: one operator that planner and converters know."""
    clipped: Tensor = aten.hardtanh.default(x, 0.0, 6.0) if x.is_floating_point() else x.clamp(0, 6)
    return clipped


def _named_padding(convolution: Any, axes: int) -> Callable[..., Tensor]:
    """``padding="same"`` and ``"valid"`` as numbers; where both sides differ, with the one more element put before it.

    torch.nn.Conv2d: the right side gets it where ``dilation * (kernel - 1)`` is odd.
    """

    def convolve(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: str = "valid",
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Tensor:
        strides, steps = (list(given) * (axes if len(given) == 1 else 1) for given in (stride, dilation))
        total = [step * (size - 1) if padding == "same" else 0 for step, size in zip(steps, weight.shape[2:], strict=True)]
        if any(size % 2 for size in total):
            x = aten.constant_pad_nd.default(x, list(itertools.chain(*((0, size % 2) for size in reversed(total)))))
        result: Tensor = convolution(x, weight, bias, strides, [size // 2 for size in total], steps, groups)
        return result

    return convolve


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """The operator for its axes, which traced modules have none of: integer kernels are found by these names."""
    axes = weight.dim() - 2
    if x.dim() != weight.dim() or axes not in (1, 2, 3):
        return NotImplemented
    given = [list(values) * (axes if len(values) == 1 else 1) for values in (stride, padding, dilation, output_padding)]
    if transposed:
        grow = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}[axes]
        return grow(x, weight, bias, given[0], given[1], given[3], groups, given[2])
    operator = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[axes]
    return operator(x, weight, bias, *given[:3], groups)


def _scaled(operator: Any) -> Callable[..., Any]:
    """A sum or difference whose second operand has a factor: litert-torch takes none."""

    def combine(x: Tensor, y: Any, *, alpha: float = 1) -> Any:
        return NotImplemented if alpha == 1 else operator(x, y * alpha)

    return combine


def lerp(x: Tensor, end: Tensor, weight: float) -> Tensor:
    """As torch computes it (ATen/native/Lerp.h), on the side that rounds less; its own decomposition chooses when it runs."""
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


def log_sigmoid(x: Tensor) -> Tensor:
    """Without the sigmoid that converters take the logarithm of: far below zero that is minus infinity."""
    return -(torch.relu(-x) + torch.log1p(torch.exp(-x.abs())))


def cumsum(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Any:
    """The axis counted from the front: Core ML knows no other but the last."""
    return NotImplemented if axis >= 0 or not x.dim() else aten.cumsum.default(x, axis % x.dim(), dtype=dtype)


def cumprod(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """In log2(length) products of what lies 1, 2, 4, ... apart (Hillis and Steele, 1986): no format has the operator."""
    x = x if dtype is None else x.to(dtype)
    axis, apart = axis % max(x.dim(), 1), 1
    while x.dim() and apart < x.shape[axis]:
        ones = torch.ones_like(x.narrow(axis, 0, apart))
        x = x * torch.cat([ones, x.narrow(axis, 0, x.shape[axis] - apart)], axis)
        apart *= 2
    return x.clone()


def squeeze(x: Tensor, axes: int | Sequence[int]) -> Any:
    """Without the axes that are longer than one, which torch lets stand: ONNX refuses to drop those."""
    given = [axes] if isinstance(axes, int) else list(axes)
    single = [axis for axis in given if x.dim() and x.shape[axis] == 1]
    if len(single) == len(given):
        return NotImplemented
    return aten.squeeze.dims(x, single) if single else x.clone()


def _alone(value: Callable[..., Tensor], x: Tensor, axis: int, dtype: torch.dtype | None) -> Any:
    """The softmax of one score is 1: ONNX Runtime's integer kernel gives 0 (1.31, QLinearSoftmax)."""
    return value(x, dtype=dtype) if x.dim() and x.shape[axis] == 1 else NotImplemented


def _resized(operator: Any) -> Callable[..., Any]:
    """Resizing with ``antialias`` as the products with two constant matrices that it is, one for each axis of the image.

    torch.onnx leaves the option out without a word, coremltools as well, and TFLite has none.
    """
    making: list[bool] = []

    def along(size: int, first: int, wanted: Sequence[int] | None, align: bool, factors: Sequence[float] | None) -> Tensor:
        """[wanted, size] (``first``: 0) or [size, wanted]: what the operator makes of single pixels, folded into a constant."""
        sizes, scales = None if wanted is None else [size, size], None if factors is None else [1.0, 1.0]
        if sizes is not None and wanted is not None:
            sizes[first] = wanted[first]
        if scales is not None and factors is not None:
            scales[first] = factors[first]
        making.append(True)
        try:
            found: Tensor = operator(torch.eye(size)[None, None], sizes, align, scales)
        finally:
            making.pop()
        return found[0, 0]

    def resize(x: Tensor, output_size: Sequence[int] | None, align: bool, factors: Sequence[float] | None) -> Any:
        if making:
            return NotImplemented
        rows, columns = (along(x.shape[first - 2], first, output_size, align, factors) for first in (0, 1))
        return torch.matmul(torch.matmul(rows, x), columns)

    return resize


def _of_booleans(operator: Any) -> Callable[[Tensor, Tensor], Any]:
    """An operator on bits as what it is between booleans: not every format has the former."""
    return lambda x, y: operator(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


def _place(operator: Any) -> Callable[..., Any]:
    """Where the extreme is: 0 along an axis of one element, which MLIR has no words for; of a whole tensor along one axis."""

    def find(x: Tensor, axis: int | None = None, keepdim: bool = False) -> Any:
        if axis is None and not keepdim and x.dim() > 1:
            return operator(x.reshape(-1), 0)
        if axis is None or not x.dim() or x.shape[axis] > 1:
            return NotImplemented
        shape = [size for number, size in enumerate(x.shape) if keepdim or number != axis % x.dim()]
        return torch.zeros(shape, dtype=torch.int64)

    return find


def one_hot(x: Tensor, classes: int = -1) -> Any:
    """By comparison: torch's own asserts first that every index fits, which no format can."""
    if classes < 0:
        return NotImplemented
    return aten.eq.Tensor(x.unsqueeze(-1), torch.arange(classes, device=x.device)).to(torch.int64)


def split(x: Tensor, size: int, axis: int = 0) -> Any:
    """Into one part, which is the whole: litert-torch takes its list for the tensor."""
    return [x.clone()] if x.shape[axis] <= size else NotImplemented


def pad(x: Tensor, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Negative amounts cut off, and what is circular becomes slices joined to one tensor: Core ML has neither."""
    for axis, (low, high) in _pairs(x, amounts):
        if low < 0 or high < 0:
            x = x.narrow(axis, max(-low, 0), x.shape[axis] - max(-low, 0) - max(-high, 0))
        x = _wrapped(x, low, high, axis) if mode == "circular" else x
    if mode == "circular":
        return x
    left = [max(amount, 0) for amount in amounts]
    if not any(left):
        return x
    if mode == "constant":
        constant: Tensor = aten.constant_pad_nd.default(x, left, 0 if value is None else value)
        return constant
    kind = {"reflect": "reflection_pad", "replicate": "replication_pad"}[mode]
    result: Tensor = getattr(aten, f"{kind}{len(left) // 2}d").default(x, left)
    return result


def _pairs(x: Tensor, amounts: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """Each axis with its amounts: torch names them from the last axis on."""
    return [(x.dim() - 1 - number, (amounts[2 * number], amounts[2 * number + 1])) for number in range(len(amounts) // 2)]


def _wrapped(x: Tensor, low: int, high: int, axis: int) -> Tensor:
    size = x.shape[axis]
    before = [x.narrow(axis, size - low, low)] if low > 0 else []
    after = [x.narrow(axis, 0, high)] if high > 0 else []
    return torch.cat([*before, x, *after], axis) if before or after else x
