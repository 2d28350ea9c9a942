"""Proof of an N:M pattern: every weight that a module or an artifact multiplies with, its groups of M counted."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeopt.compress.zeros.masks import inputs_first, layer_name, weights_of
from edgeopt.core import data_class
from edgeopt.errors import EdgeoptError, MissingExtra, ModelError, ReferenceNotFound
from edgeopt.model.user_code import summary

Mask = NDArray[np.bool_]
_MULTIPLYING = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention | nn.RNNBase
READERS = {
    ".onnx": ("edgeopt.compress.zeros.pattern_onnx", "onnx"),
    ".pt2": ("edgeopt.compress.zeros.pattern_pt2", "torch"),
    ".tflite": ("edgeopt.compress.zeros.pattern_tflite", "tflite"),
}
"""Suffix to the module whose ``stored`` reads such a file, and the extra that it needs."""


class Stored(NamedTuple):
    """Where a weight is not zero, and the axis along which its products are summed."""

    name: str
    nonzero: Mask
    axis: int


@data_class
class LayerPattern:
    """One weight. ``holds``: whether no group has more than N; ``most``: the most non-zero weights of any group of M.

    Where the axis is no multiple of M, ``most`` is None and the pattern cannot hold. ``zeros``: the share of exact zeros.
    """

    layer: str
    shape: tuple[int, ...]
    axis: int
    holds: bool
    most: int | None
    zeros: float


def pattern_holds(source: nn.Module | Path | str, n: int = 2, m: int = 4) -> tuple[LayerPattern, ...]:
    """Whether at most ``n`` of each ``m`` weights along the inputs are not zero, for every layer of ``source``.

    ``source``: a module, or a ``.onnx``, ``.pt2`` or ``.tflite`` file, float or quantized (there a zero is the weight's zero
    point). Weights are looked for behind DequantizeLinear and transpositions, and the axis follows them. Weights that the model
    computes are no part of it; where no weight is found nothing is proved. Raises ReferenceNotFound, ModelError for a file
    that cannot be read, MissingExtra.
    """
    if not 0 < n <= m:
        raise ValueError(f"{n}:{m} is no pattern: give 0 < n <= m")
    stored = _of_module(source) if isinstance(source, nn.Module) else _of_file(Path(source))
    return tuple(_judged(weight, n, m) for weight in stored)


def _judged(weight: Stored, n: int, m: int) -> LayerPattern:
    rows = np.moveaxis(weight.nonzero, weight.axis, -1)
    whole = rows.shape[-1] % m == 0
    most = int(rows.reshape(-1, m).sum(1).max(initial=0)) if whole else None
    return LayerPattern(
        layer=weight.name, shape=weight.nonzero.shape, axis=weight.axis % weight.nonzero.ndim, most=most,
        holds=most is not None and most <= n, zeros=1 - float(weight.nonzero.mean()) if weight.nonzero.size else 0.0,
    )  # fmt: skip


def _of_module(module: nn.Module) -> list[Stored]:
    """Linear layers, convolutions, attention and recurrent layers."""
    found = []
    for weight in weights_of(module):
        nonzero = (weight.value.detach().cpu() != 0).numpy()
        for name, owner in weight.owners.items():
            if inputs_first(owner) or isinstance(owner, _MULTIPLYING):
                found.append(Stored(layer_name(name), nonzero, 0 if inputs_first(owner) else 1))
    return found


def _of_file(path: Path) -> list[Stored]:
    if not path.is_file():
        raise ReferenceNotFound(f"there is no file {path}", fix="check the path")
    if path.suffix not in READERS:
        fix = f"give one of {', '.join(READERS)}"
        raise ModelError(f"the weights of {path} cannot be looked at", why=f"its suffix is {path.suffix!r}", fix=fix)
    name, extra = READERS[path.suffix]
    try:
        reader: Any = import_module(name)
    except ImportError as error:
        fix = f"pip install 'edgeopt[{extra}]'"
        raise MissingExtra(f"{path} cannot be read here", why=f"{error.name} is not installed", fix=fix) from error
    try:
        stored: list[Stored] = reader.stored(path)
    except EdgeoptError:
        raise
    except Exception as error:  # the readers raise struct.error, DecodeError, IndexError and others on a broken file
        raise ModelError(f"{path} is damaged or no {path.suffix} file", why=summary(error), fix="make it again") from error
    return stored
