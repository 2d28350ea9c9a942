"""Latency of a module from the latencies of its layers, each measured once on the device: what a search asks instead of it.

    table = LatencyTable(device="pixel8", runtime="onnx", threads=1)
    times = LayerLatency(table, measure=measure, path=Path("pixel8.json"))    # measure(module, example) -> ms, there
    times.predict(module, example).ms
    times.against(module, example, measured_ms).error                         # how far off, for one whole network

As in once-for-all (Cai et al., 2020, arXiv:1908.09791) and ProxylessNAS (arXiv:1812.00332): the sum over layers. What a call
costs whatever it computes is measured too and counted once.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.search.layer_trace import TracedLayer, layers_of
from edgeopt.core import data_class
from edgeopt.errors import CompressionError
from edgeopt.model.latency_table import LatencyTable, LayerTime
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments

Measure = Callable[[nn.Module, Batch], float]
"""Milliseconds of one call of a module on an example, where the table is for."""
How = Literal["measured", "interpolated"]
HERE_SECONDS, HERE_RUNS, HERE_WARM_UP = 0.1, 15, 5


@data_class
class PredictedLayer:
    """One layer of a prediction; ``ms`` without the overhead of a call."""

    call: str
    ms: float
    how: How


@data_class
class Prediction:
    """``ms``: one call of the whole module. ``source``: for people, what it stands on."""

    ms: float
    layers: tuple[PredictedLayer, ...]

    @property
    def source(self) -> str:
        """``predicted``, and how many layers were interpolated."""
        guessed = sum(layer.how == "interpolated" for layer in self.layers)
        return "predicted" + (f", {guessed} of {len(self.layers)} layers interpolated" if guessed else "")


@data_class
class PredictionError:
    """A prediction beside the measured whole."""

    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Relative: 0.1 is predicted 10% too slow."""
        return self.predicted_ms / self.measured_ms - 1


class LayerLatency:
    """A table that grows: a layer it does not know is measured with ``measure``, and ``path`` is written anew.

    Without ``measure`` an unknown layer is interpolated between the nearest known ones of its form, over their work.
    """

    def __init__(self, table: LatencyTable, measure: Measure | None = None, path: Path | None = None) -> None:
        self._table, self._measure, self._path = table, measure, path
        self._known = {entry.call: entry for entry in table.layers}
        self._overhead = table.overhead_ms

    @property
    def table(self) -> LatencyTable:
        """With everything measured so far."""
        base = self._table
        return LatencyTable(
            device=base.device, runtime=base.runtime, threads=base.threads, overhead_ms=self._overhead,
            layers=tuple(sorted(self._known.values(), key=lambda entry: entry.call)),
        )  # fmt: skip

    def predict(self, module: nn.Module, example_inputs: Batch) -> Prediction:
        """The sum over the layers of ``module``. Raises CompressionError where one can be neither measured nor interpolated."""
        layers = layers_of(module, example_inputs)
        if self._measure is not None:
            self.add({layer.call: self._measure(layer.module, layer.example) for layer in self._unknown(layers)}, layers)
        parts = tuple(self._part(layer) for layer in layers)
        return Prediction(ms=(self._overhead or 0.0) + sum(part.ms for part in parts), layers=parts)

    def against(self, module: nn.Module, example_inputs: Batch, measured_ms: float) -> PredictionError:
        """The prediction beside ``measured_ms``, the time of the whole module on the same device."""
        return PredictionError(predicted_ms=self.predict(module, example_inputs).ms, measured_ms=measured_ms)

    def missing(self, module: nn.Module, example_inputs: Batch) -> tuple[TracedLayer, ...]:
        """The layers of ``module`` that are not in the table, each once: to measure many in one go, for :meth:`add`."""
        return self._unknown(layers_of(module, example_inputs))

    def _unknown(self, layers: tuple[TracedLayer, ...]) -> tuple[TracedLayer, ...]:
        different = {layer.call: layer for layer in (*([] if self._overhead is not None else [nothing()]), *layers)}
        return tuple(layer for call, layer in different.items() if call not in self._known)

    def add(
        self, ms: dict[str, float], layers: tuple[TracedLayer, ...], floats: Mapping[str, float] | None = None
    ) -> None:  # fmt: skip
        """Times by ``call`` of some of ``layers`` (or of :func:`nothing`, the overhead); ``floats``: of some, in floats."""
        floats = floats or {}
        for call, value in (*ms.items(), *floats.items()):
            if not (math.isfinite(value) and value >= 0):
                raise CompressionError(f"the measured time of {call} is {value} ms", fix="correct measure(module, example)")
        self._overhead = ms.get(OVERHEAD, self._overhead)
        found = {layer.call: layer for layer in layers if layer.call != OVERHEAD}
        for call, value in ms.items():
            if call in found:
                layer = found[call]
                self._known[call] = LayerTime(call=call, form=layer.form, work=layer.work, ms=value, float_ms=floats.get(call))
        if ms and self._path is not None:
            self.table.save(self._path)

    def _part(self, layer: TracedLayer) -> PredictedLayer:
        known = self._known.get(layer.call)
        if known is not None:
            return PredictedLayer(call=layer.call, ms=self._net(known), how="measured")
        return PredictedLayer(call=layer.call, ms=self._interpolated(layer), how="interpolated")

    def _net(self, entry: LayerTime) -> float:
        return max(entry.ms - (self._overhead or 0.0), 0.0)

    def _interpolated(self, layer: TracedLayer) -> float:
        """Linear in work between the nearest below and above; beyond all of them in proportion to the nearest."""
        alike = sorted((entry.work, self._net(entry)) for entry in self._known.values() if entry.form == layer.form)
        if not alike:
            why = f"{self._table.device} has no time of any layer such as {layer.form}"
            fix = "give a measure(module, example) -> ms, or fill the table with a network that has one"
            raise CompressionError(f"the time of {layer.call} cannot be told", why=why, fix=fix)
        below = [one for one in alike if one[0] <= layer.work]
        above = [one for one in alike if one[0] >= layer.work]
        if not below or not above:
            work, ms = below[-1] if below else above[0]
            return ms * layer.work / work
        (low, low_ms), (high, high_ms) = below[-1], above[0]
        return low_ms if high == low else low_ms + (high_ms - low_ms) * (layer.work - low) / (high - low)


OVERHEAD = "nothing"


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def nothing() -> TracedLayer:
    """A layer on one number: what a call costs by itself."""
    return TracedLayer(call=OVERHEAD, form=OVERHEAD, work=1, module=_Nothing().eval(), example=(torch.ones(1, 1),))


def time_here(module: nn.Module, example_inputs: Batch) -> float:
    """Median milliseconds of one call in PyTorch, here, with the threads that PyTorch is set to."""
    args, kwargs = call_arguments(example_inputs)
    times: list[float] = []
    with evaluating(module), torch.inference_mode():
        until = time.perf_counter() + HERE_SECONDS
        while len(times) < HERE_RUNS + HERE_WARM_UP or time.perf_counter() < until:
            started = time.perf_counter_ns()
            module(*args, **kwargs)
            times.append((time.perf_counter_ns() - started) / 1e6)
    return median(times[HERE_WARM_UP:])
