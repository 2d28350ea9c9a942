"""What computes an artifact where it is proved: never kernels of this CPU that compute something else than its target does."""

from dataclasses import dataclass
from pathlib import Path

from edgeopt.converters.interface import Converter, Differing, Predictor
from edgeopt.core import AS_WRITTEN, KERNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """``predictor`` stands for the target. ``difference``: why the kernels here do not, and the file is computed as written."""

    predictor: Predictor
    compared: str
    """What ``predictor`` is, in words: every verdict states it."""
    difference: str = ""


def prover(converter: Converter, path: Path, *, threads: int) -> Prover:
    """The artifact at ``path`` as its target computes it, as far as this machine can tell."""
    difference = converter.difference(path) if isinstance(converter, Differing) else ""
    if difference:
        assert isinstance(converter, Differing)
        return Prover(predictor=converter.load_as_written(path, threads=threads), compared=AS_WRITTEN, difference=difference)
    return Prover(predictor=converter.load(path, threads=threads), compared=converter.stand_in or KERNELS)


def kernels(converter: Converter) -> str:
    """What sets this CPU's kernels for the converter's format apart from others'; "" where nothing does."""
    return converter.kernels() if isinstance(converter, Differing) else ""
