"""How far an artifact is from the module itself, channel by channel, and how far rounding alone may take it."""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fuzz.network import Example

Array = NDArray[Any]
Outputs = list[tuple[Array, ...]]
"""One tuple of arrays per sample."""
MOST_CHANNELS = 1024
SILENCE_DB = 3.0
ROOM_DB = 20.0
"""What kernels that sum in another order, or round inside an operator, may lose beyond the simulated rounding."""
Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """One output, or a channel of it, that is further from the module than it may be."""

    output: int
    axis: int | None
    channel: int | None
    db: float
    allowed_db: float
    kind: str = "wrong"

    def __str__(self) -> str:
        where = f"output {self.output}" + ("" if self.axis is None else f", axis {self.axis}, channel {self.channel}")
        return f"{where}: {self.db:.1f} dB, {self.allowed_db:.1f} allowed ({self.kind})"


def run(module: nn.Module, samples: Sequence[Example], rounding: Rounding | None = None) -> Outputs:
    """Outputs of the module on copies of the samples; ``rounding`` is applied to what each of its operators gives."""
    found = []
    for sample in samples:
        given = tuple(value.clone() for value in sample)
        with torch.no_grad():
            if rounding is None:
                outputs = module(*given)
            else:
                with _Rounded(rounding):
                    outputs = module(*given)
        found.append(tuple(value.detach().clone().numpy() for value in outputs))
    return found


def noise(module: nn.Module, samples: Sequence[Example], limit_db: float) -> list[Outputs]:
    """Outputs with the rounding of the format that ``limit_db`` is for: float16 below 40 dB, else float32."""
    if limit_db < 40:
        return [run(module, samples, half)]
    try:
        return [exact(module, samples), run(module, samples, jitter(2**-22))]
    except RuntimeError:  # a model that names float32 itself does not run in float64
        return [run(module, samples, jitter(2**-20))]


def exact(module: nn.Module, samples: Sequence[Example]) -> Outputs:
    """Outputs in float64."""
    doubled = [tuple(v.double() if v.is_floating_point() else v for v in sample) for sample in samples]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return run(deepcopy(module).double(), doubled)
    finally:
        torch.set_default_dtype(before)


class _Rounded(TorchDispatchMode):
    """Rounds the float results of every operator that does not merely give a view of what it got."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns):
            return result
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                value.copy_(self._rounding(value))
        return result


def half(value: Tensor) -> Tensor:
    """As float16 holds it; values beyond its range stay, as masks are made finite by every converter."""
    rounded = value.half().float()
    return torch.where(torch.isfinite(rounded), rounded, value)


def eighth(value: Tensor) -> Tensor:
    """As 8 bits over the tensor's own range hold it: what the plainest quantizer of all does."""
    if not value.numel():
        return value
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    step = (high - low) / 255
    return (value / step).round() * step if step else value


def jitter(share: float) -> Rounding:
    """Relative noise of ``share``, of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return lambda value: value * (1 + share * torch.randn(value.shape, generator=generator))


def losses(reference: Outputs, candidate: Outputs, limit_db: float, rounded: Sequence[Outputs]) -> list[Loss]:
    """Every output or channel below ``limit_db``, unless rounding alone (``rounded``) brings it there; the worst per output.

    Integers and booleans are compared where rounding never changes them.
    """
    found = []
    for index, wanted in enumerate(_stacked(reference)):
        got, noisy = _stacked(candidate, index)[0], [_stacked(each, index)[0] for each in rounded]
        if wanted.shape != got.shape:
            found.append(Loss(index, None, None, -math.inf, limit_db, f"shape {got.shape[1:]} for {wanted.shape[1:]}"))
        elif wanted.dtype.kind != "f":
            settled = np.logical_and.reduce([each == wanted for each in noisy]) if noisy else np.ones(wanted.shape, bool)
            if bool((settled & (wanted != got)).any()):
                found.append(Loss(index, None, None, 0.0, limit_db, "integers differ"))
        elif (worst := _worst(index, wanted, got, limit_db, noisy)) is not None:
            found.append(worst)
    return found


def _worst(index: int, wanted: Array, got: Array, limit_db: float, noisy: list[Array]) -> Loss | None:
    if bool((np.isfinite(wanted) & ~np.isfinite(got)).any()):
        return Loss(index, None, None, -math.inf, limit_db, "not finite")
    floor = (1e-6 * float(np.sqrt(np.mean(wanted**2))) + 1e-9) ** 2
    found = []
    for axis, signal, noise, own in _channels(wanted, got, noisy):
        counted = wanted.size / signal.size
        allowed = np.maximum(np.maximum(signal * 10 ** (-limit_db / 10), own * 10 ** (ROOM_DB / 10)), floor * counted)
        excess = noise / allowed
        worst = int(np.argmax(excess))
        if excess[worst] > 1:
            found.append(
                Loss(
                    index,
                    axis,
                    None if axis is None else worst,
                    _db(signal[worst], noise[worst]),
                    _db(signal[worst], allowed[worst]),
                )
            )
    return min(found, key=lambda loss: loss.db - loss.allowed_db) if found else None


def silent(reference: Outputs, candidate: Outputs) -> list[Loss]:
    """The worst channel of every float output that is as far from the module as silence, and outputs that never change."""
    found = []
    for index, wanted in enumerate(_stacked(reference)):
        got = _stacked(candidate, index)[0]
        if wanted.shape != got.shape:
            found.append(Loss(index, None, None, -math.inf, SILENCE_DB, f"shape {got.shape[1:]} for {wanted.shape[1:]}"))
        elif wanted.dtype.kind == "f":
            if wanted.size > 1 and np.ptp(got) == 0 and np.ptp(wanted) > 1e-6 * np.abs(wanted).max():
                found.append(Loss(index, None, None, 0.0, SILENCE_DB, "constant"))
                continue
            below = [loss for loss in _silent_channels(index, wanted, got) if loss.db <= SILENCE_DB]
            found += [min(below, key=lambda loss: (loss.axis is not None, loss.db))] if below else []
    return found


def _silent_channels(index: int, wanted: Array, got: Array) -> Iterator[Loss]:
    for axis, signal, noise, _ in _channels(wanted, got, []):
        values = np.array([_db(s, n) for s, n in zip(signal, noise, strict=True)])
        worst = int(np.argmin(values))
        yield Loss(index, axis, None if axis is None else worst, float(values[worst]), SILENCE_DB, "silent")


def _channels(wanted: Array, got: Array, noisy: list[Array]) -> Iterator[tuple[int | None, Array, Array, Array]]:
    """``axis``, then the power of signal, error and rounding for each channel along it; first for the whole output."""
    wanted, error = wanted.astype(np.float64), np.where(np.isfinite(wanted), wanted.astype(np.float64) - got, 0.0)
    wanted = np.where(np.isfinite(wanted), wanted, 0.0)
    own = [np.where(np.isfinite(each), each.astype(np.float64) - wanted, 0.0) for each in noisy]
    for axis in (None, *range(1, wanted.ndim)):
        if axis is not None and not 2 <= wanted.shape[axis] <= MOST_CHANNELS:
            continue
        others = tuple(other for other in range(wanted.ndim) if other != axis)
        power = [np.atleast_1d(np.sum(each**2, axis=others)) for each in (wanted, error, *own)]
        yield (None if axis is None else axis - 1), power[0], power[1], np.max(power[2:], axis=0, initial=0.0)


def _db(signal: float, noise: float) -> float:
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _stacked(samples: Outputs, only: int | None = None) -> list[Array]:
    """Each output over all samples, which are the first axis."""
    indices = range(len(samples[0])) if only is None else (only,)
    return [np.stack([np.asarray(sample[index]) for sample in samples]) for index in indices]
