"""Poolings that some format gets wrong or lacks, written in a form that every format has: exact, and before quantization."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def table() -> dict[Any, Callable[..., Any]]:
    """The decompositions, by operator, as :func:`edgeopt.capture.lowering_forms.table` has them."""
    return {
        aten.avg_pool1d.default: _averages(aten.avg_pool1d.default, 1),
        aten.avg_pool2d.default: _averages(aten.avg_pool2d.default, 2),
        aten.avg_pool3d.default: _averages(aten.avg_pool3d.default, 3),
        aten.max_pool1d.default: _maxima(aten.max_pool1d.default, 1),
        aten.max_pool2d.default: _maxima(aten.max_pool2d.default, 2),
        aten.max_pool2d_with_indices.default: _maxima(aten.max_pool2d_with_indices.default, 2),
        aten.max_pool3d.default: _maxima(aten.max_pool3d.default, 3),
        aten.adaptive_max_pool1d.default: _adaptive_max_pool(1),
        aten.adaptive_max_pool2d.default: _adaptive_max_pool(2),
        aten.adaptive_max_pool3d.default: _adaptive_max_pool(3),
    }


def _windows(size: int, window: int, step: int, padding: int, ceil_mode: bool) -> int:
    """How many windows a pooling has along an axis; the last starts within the input or the padding before it."""
    room = size + 2 * padding - window
    count = (-(-room // step) if ceil_mode else room // step) + 1
    return count - 1 if ceil_mode and (count - 1) * step >= size + padding else count


def _each(given: Sequence[int], axes: int) -> list[int]:
    """A number for each of ``axes``."""
    return list(given) * (axes if len(given) == 1 else 1)


def _rounds_up(x: Tensor, kernel: Sequence[int], steps: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether ``ceil_mode`` gives a pooling more windows along some axis; ``kernel`` with its dilation."""
    rows = zip(x.shape[-len(kernel) :], kernel, steps, padding, strict=True)
    return any(_windows(*row, True) > _windows(*row, False) for row in rows)


def _averages(operator: Any, axes: int) -> Callable[..., Any]:
    """``ceil_mode`` goes where it changes nothing: ONNX counts a window that begins behind the input, torch does not.

    Of images, ``divisor_override`` becomes a factor, and a window larger than what there is as large as that.
    """

    def pool(
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        kernel, steps, own = (_each(given, axes) for given in (kernel_size, stride or kernel_size, padding))
        if axes == 2 and divisor_override is not None:
            return _divided(x, kernel, steps, own, ceil_mode) * (kernel[0] * kernel[1] / divisor_override)
        whole = [size + 2 * low for size, low in zip(x.shape[-axes:], own, strict=True)]
        if axes == 2 and any(window > size for window, size in zip(kernel, whole, strict=True)):
            # EfficientNet of transformers pools 640 by 640 of 2 by 2, which TFLite would fill up with zeros, and divide in
            # 8 bits by the area of all.
            windows, steps = ([min(both) for both in zip(sizes, whole, strict=True)] for sizes in (kernel, steps))
            return operator(x, windows, steps, own, ceil_mode, count_include_pad)
        if not ceil_mode or divisor_override is not None or _rounds_up(x, kernel, steps, own):
            return NotImplemented
        return operator(x, kernel, steps, own, False, count_include_pad)

    return pool


def _divided(x: Tensor, kernel: list[int], steps: list[int], padding: list[int], ceil_mode: bool) -> Tensor:
    """The means of windows that are all whole: torch.onnx leaves a divisor out without a word, Core ML refuses it."""
    amounts = []
    for size, window, step, low in zip(x.shape[-2:], kernel, steps, padding, strict=True):
        count = _windows(size, window, step, low, ceil_mode)
        amounts.append((low, max(0, (count - 1) * step + window - size - low)))
    padded = aten.constant_pad_nd.default(x, [*amounts[1], *amounts[0]], 0)
    means: Tensor = aten.avg_pool2d.default(padded, kernel, steps)
    return means


def _maxima(operator: Any, axes: int) -> Callable[..., Any]:
    """The same of maxima."""

    def pool(
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Any:
        kernel, steps, own = (_each(given, axes) for given in (kernel_size, stride or kernel_size, padding))
        apart = _each(dilation, axes)
        reach = [(size - 1) * step + 1 for size, step in zip(kernel, apart, strict=True)]
        if not ceil_mode or _rounds_up(x, reach, steps, own):
            return NotImplemented
        return operator(x, kernel, steps, own, apart, False)

    return pool


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
