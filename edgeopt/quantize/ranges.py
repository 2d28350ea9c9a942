"""From a histogram to a scale and zero point, by the observer that the target's scheme names.

Method ``mse``: the clipping range with the least expected squared error of rounding plus clipping, found on a grid
(Banner et al., 2019, arXiv:1810.05723, and Nagel et al., 2021, arXiv:2106.08295, section 3.1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import QuantScheme
from edgeopt.quantize.statistics import Histogram

GRID = 41
"""Candidates per end of the range, from 20 % to 100 % of the observed minimum and maximum."""
PERCENTILE = 99.99
LEAST_SCALE = 2.0**-24


@dataclass(frozen=True, slots=True)
class QParams:
    """real = (quantized - zero_point) * scale, quantized in [low, high]."""

    scale: float
    zero_point: int
    low: int
    high: int


def integer_range(scheme: QuantScheme) -> tuple[int, int]:
    """Least and greatest integer of the scheme's activations; signed symmetric ones leave out -128, as TensorRT's do."""
    if scheme.activation == "uint8":
        return 0, 255
    return (-127, 127) if scheme.symmetric else (-128, 127)


def qparams(histogram: Histogram, scheme: QuantScheme, whole_top: bool = False) -> QParams:
    """Scale and zero point of an activation with these values; one that was always zero gets a range of one.

    ``whole_top``: the greatest value is within the range, whatever the observer would cut off.

    A scale next to nothing would be refused (ONNX Runtime), or crash the process: XNNPACK takes multipliers below 256.
    """
    return of_range(*clipping_range(histogram, scheme, whole_top), scheme)


def of_range(low: float, high: float, scheme: QuantScheme) -> QParams:
    """Scale and zero point with which [low, high], zero within, takes all integers of the scheme."""
    high = high if low < high else 1.0
    least, greatest = integer_range(scheme)
    if scheme.symmetric:
        return _symmetric(low, high, least, greatest)
    scale = max((high - low) / (greatest - least), LEAST_SCALE)
    zero_point = int(np.clip(round(least - low / scale), least, greatest))
    return QParams(float(np.float32(scale)), zero_point, least, greatest)


def _symmetric(low: float, high: float, least: int, greatest: int) -> QParams:
    """Zero is in the middle, 0 or 128; of unsigned integers it is the first where nothing is negative: as Core ML's own
    quantizer has it (coremltools 9, optimize/torch/quantization/_coreml_quantizer_utils.py, _adjust_activation_qspec).
    """
    middle = (least + greatest + 1) // 2 if low < 0 or least < 0 else least
    return QParams(max(max(-low, high) / (greatest - middle), LEAST_SCALE), middle, least, greatest)


def fixed(scale: float, zero_point: int, scheme: QuantScheme) -> QParams:
    """Parameters that the runtime prescribes, such as 1/256 and -128 for the output of a TFLite softmax."""
    least, greatest = integer_range(scheme)
    return QParams(scale, zero_point, least, greatest)


def clipping_range(histogram: Histogram, scheme: QuantScheme, whole_top: bool = False) -> tuple[float, float]:
    """The range to represent, zero always within; up to the greatest value where ``whole_top`` asks for it."""
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if scheme.observer == "minmax" or high == low:
        return low, high
    if scheme.observer == "percentile":
        below, above = _percentile(histogram, low, high)
        return below, high if whole_top else above
    return _least_squares(histogram, low, high, scheme, high if whole_top else 0.0)


def levels_of_the_bulk(histogram: Histogram, parameters: QParams) -> float:
    """How many integers the middle half of the values spreads over, zeros aside; few where outliers stretch the range.

    Where that half is one value, as in a mask of ones, how many integers lie between it and zero.

    A transformer's residual stream may reach 200 in one channel while the others stay below 1 (Bondarenko et al., 2021,
    arXiv:2109.12948): 8 bits over such a range are blind to all but that channel.
    """
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    counts[(edges[:-1] <= 0) & (edges[1:] > 0)] = 0
    total = counts.sum()
    if total == 0:
        return float(parameters.high - parameters.low)
    low, high = np.searchsorted(np.cumsum(counts) / total, (0.25, 0.75))
    spread = edges[high + 1] - edges[low] if high > low else abs(edges[high + 1] + edges[low]) / 2
    return float(spread / parameters.scale)


def holds(parameters: QParams, histogram: Histogram) -> bool:
    """Whether nothing of a value is clipped, but for what rounding does at the ends."""
    low, high = ((end - parameters.zero_point) * parameters.scale for end in (parameters.low, parameters.high))
    return histogram.minimum >= low - parameters.scale and histogram.maximum <= high + parameters.scale


def _percentile(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = histogram.edges
    below, above = np.searchsorted(share, (1 - PERCENTILE / 100, PERCENTILE / 100))
    return max(low, min(float(edges[below]), 0.0)), min(high, max(float(edges[min(above + 1, len(edges) - 1)]), 0.0))


def _least_squares(histogram: Histogram, low: float, high: float, scheme: QuantScheme, top: float) -> tuple[float, float]:
    """``top``: what the range reaches at least."""
    shrink = np.linspace(0.2, 1.0, GRID)
    if scheme.symmetric and (low < 0 or scheme.activation == "int8"):
        bound = np.maximum(shrink * max(-low, high), top)
        return _best(histogram, -bound, bound, scheme)
    lows, highs = np.meshgrid(shrink * low, np.maximum(shrink * high, top), indexing="ij")
    return _best(histogram, lows.ravel(), highs.ravel(), scheme)


def _best(
    histogram: Histogram, lows: NDArray[np.float64], highs: NDArray[np.float64], scheme: QuantScheme
) -> tuple[float, float]:
    """The candidate range with the least expected squared error; of equal ones the widest."""
    edges, counts = histogram.edges, histogram.counts.astype(np.float64) if histogram.weights is None else histogram.weights
    centers = (edges[:-1] + edges[1:]) / 2
    exact_zeros = counts[(edges[:-1] <= 0) & (edges[1:] > 0)].sum()  # ReLU's zeros are represented without error
    sums = [np.concatenate(([0.0], np.cumsum(counts * centers**power))) for power in range(3)]
    first, last = np.searchsorted(centers, lows), np.searchsorted(centers, highs, side="right")
    total = [prefix[-1] for prefix in sums]
    below = lows**2 * sums[0][first] - 2 * lows * sums[1][first] + sums[2][first]
    above = highs**2 * (total[0] - sums[0][last]) - 2 * highs * (total[1] - sums[1][last]) + total[2] - sums[2][last]
    least, greatest = integer_range(scheme)
    step = (highs - lows) / (greatest - least)
    error = below + above + (sums[0][last] - sums[0][first] - exact_zeros) * step**2 / 12
    best = len(error) - 1 - int(np.argmin(error[::-1]))
    return float(lows[best]), float(highs[best])
