"""Operators that some format gets wrong or refuses, written as others that every format has: exact, and before quantization.

Each function is a decomposition for ``ExportedProgram.run_decompositions`` with the operator's own arguments.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def table() -> dict[Any, Callable[..., Any]]:
    """The decompositions, by operator."""
    return {
        aten.conv1d.padding: _named_padding(aten.conv1d.default, 1),
        aten.conv2d.padding: _named_padding(aten.conv2d.default, 2),
        aten.conv3d.padding: _named_padding(aten.conv3d.default, 3),
        aten.pad.default: pad,
        aten.add.Tensor: _scaled(aten.add.Tensor),
        aten.sub.Tensor: _scaled(aten.sub.Tensor),
        aten.rsub.Tensor: lambda x, y, alpha=1: aten.sub.Tensor(y, x * alpha if alpha != 1 else x),
        aten.lerp.Scalar: lerp,
        aten.cumsum.default: cumsum,
        aten.one_hot.default: one_hot,
        aten.split.Tensor: split,
        aten.avg_pool2d.default: avg_pool2d,
        aten.adaptive_max_pool1d.default: _adaptive_max_pool(1),
        aten.adaptive_max_pool2d.default: _adaptive_max_pool(2),
        aten.adaptive_max_pool3d.default: _adaptive_max_pool(3),
    }


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


def _scaled(operator: Any) -> Callable[..., Any]:
    """A sum or difference whose second operand has a factor: litert-torch takes none."""

    def combine(x: Tensor, y: Any, *, alpha: float = 1) -> Any:
        return NotImplemented if alpha == 1 else operator(x, y * alpha)

    return combine


def lerp(x: Tensor, end: Tensor, weight: float) -> Tensor:
    """As torch computes it (ATen/native/Lerp.h), on the side that rounds less; its own decomposition chooses when it runs."""
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


def cumsum(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Any:
    """The axis counted from the front: Core ML knows no other but the last."""
    return NotImplemented if axis >= 0 or not x.dim() else aten.cumsum.default(x, axis % x.dim(), dtype=dtype)


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


def avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """``divisor_override`` as a factor behind the pooling: torch.onnx leaves it out without a word, Core ML refuses it.

    A window larger than what there is (``ceil_mode``; EfficientNet of transformers pools 640 by 640 of 2 by 2) becomes as large
    as that: TFLite would fill it up with zeros, and divide in 8 bits by the area of all.
    """
    kernel, steps, own = _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)
    if divisor_override is None:
        whole = [size + 2 * low for size, low in zip(x.shape[-2:], own, strict=True)]
        if all(window <= size for window, size in zip(kernel, whole, strict=True)):
            return NotImplemented
        windows = [min(both) for both in zip(kernel, whole, strict=True)]
        steps = [min(both) for both in zip(steps, whole, strict=True)]
        return aten.avg_pool2d.default(x, windows, steps, own, ceil_mode, count_include_pad)
    amounts = []
    for size, window, step, low in zip(x.shape[-2:], kernel, steps, own, strict=True):
        count = _windows(size, window, step, low, ceil_mode)
        amounts.append((low, max(0, (count - 1) * step + window - size - low)))
    padded = aten.constant_pad_nd.default(x, [*amounts[1], *amounts[0]], 0)  # every window whole: the mean is the sum
    return aten.avg_pool2d.default(padded, kernel, steps) * (kernel[0] * kernel[1] / divisor_override)


def _windows(size: int, window: int, step: int, padding: int, ceil_mode: bool) -> int:
    """How many windows a pooling has along an axis; the last starts within the input or the padding before it."""
    room = size + 2 * padding - window
    count = (-(-room // step) if ceil_mode else room // step) + 1
    return count - 1 if ceil_mode and (count - 1) * step >= size + padding else count


def _pair(given: Sequence[int]) -> list[int]:
    return list(given) * (2 if len(given) == 1 else 1)


def _adaptive_max_pool(axes: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Maxima over windows that are written out: neither torch.onnx nor litert-torch has the operator."""

    def pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        first = x.dim() - axes
        windows = [_adaptive_windows(x.shape[first + number], size) for number, size in enumerate(output_size)]
        found = x
        for axis, parts in enumerate(windows, start=first):
            if len(parts) != x.shape[axis]:
                found = torch.cat([found.narrow(axis, start, size).amax(axis, keepdim=True) for start, size in parts], axis)
        return found, _places(x, windows).reshape(found.shape)

    return pool


def _adaptive_windows(length: int, count: int) -> list[tuple[int, int]]:
    """Start and size of each window."""
    starts = [number * length // count for number in range(count)]
    return [(start, -(-(number + 1) * length // count) - start) for number, start in enumerate(starts)]


def _places(x: Tensor, windows: list[list[tuple[int, int]]]) -> Tensor:
    """Where in the flattened axes each window has its maximum; goes away where nobody asks for it."""
    axes = len(windows)
    lengths = x.shape[-axes:]
    places = torch.arange(math.prod(lengths)).reshape(lengths)
    found = []
    for window in itertools.product(*windows):
        part, own = x, places
        for axis, (start, size) in enumerate(window):
            part, own = part.narrow(axis - axes, start, size), own.narrow(axis, start, size)
        found.append(own.reshape(-1)[part.flatten(-axes).argmax(-1)])
    return torch.stack(found, -1)
