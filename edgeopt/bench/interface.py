"""What an artifact says that it takes and gives, held against what can be: a manifest or a file may say anything."""

import math
from collections.abc import Sequence

import numpy as np

from edgeopt.core import TensorSpec
from edgeopt.devices.runner.job import SIZES
from edgeopt.errors import ConfigError
from edgeopt.support.untrusted import shown

LARGEST_BYTES = 1 << 29
"""Of all inputs of one call, and of all its outputs: an image of 8K in float32 takes 400 MB."""
HIGHEST_RANK = 32
_SCALES = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
_LABELS = ("str",)
"""Core ML gives the name of a class."""


def check_interface(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raises ConfigError where ``name``'s ``inputs`` or ``outputs`` are of a type, a size or a scale that no tensor has.

    A dimension below 0 is one that is not fixed.
    """
    for kind, specs in (("input", inputs), ("output", outputs)):
        size = 0
        for spec in specs:
            if problem := _problem(spec, label=kind == "output" and spec.dtype in _LABELS):
                raise _refusal(name, f"{kind} {shown(spec.name)} {problem}")
            size += _bytes(spec)
        if size > LARGEST_BYTES:
            raise _refusal(name, f"its {kind}s take {shown(size)} bytes, at most {LARGEST_BYTES} are tried")


def _problem(spec: TensorSpec, label: bool) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    if len(spec.shape) > HIGHEST_RANK:
        return f"has {len(spec.shape)} dimensions, numpy knows {HIGHEST_RANK}"
    if label:
        return ""
    if spec.dtype not in SIZES:
        return f"is of the type {shown(spec.dtype)}: known are {', '.join(SIZES)}"
    if spec.scale is None:
        return ""
    if "int" not in spec.dtype:
        return f"has a scale, and is of the type {spec.dtype}: only integers stand for other numbers"
    if not _SCALES[0] <= spec.scale <= _SCALES[1]:
        return f"has the scale {spec.scale}: it is a positive float32"
    limits = np.iinfo(spec.dtype)
    if not limits.min <= (spec.zero_point or 0) <= limits.max:
        return f"has the zero point {shown(spec.zero_point)}, which {spec.dtype} does not hold"
    return ""


def _bytes(spec: TensorSpec) -> int:
    return SIZES.get(spec.dtype, 0) * math.prod(max(size, 1) for size in spec.shape)


def _refusal(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name} says what cannot be of its tensors", why=why, fix="export again, or get the artifact again")
