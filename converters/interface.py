"""What a format must offer: one file beside this one with a class that satisfies :class:`Converter`.

A converter only lowers: the program it gets is already quantized for its target (Q/DQ nodes of
``torch.ops.quantized_decomposed``), and nothing here chooses a scale, a scheme or a layer.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import Structure, TensorSpec
from edgeopt.targets.schema import TargetProfile

Array = NDArray[np.generic]


class Predictor(Protocol):
    """A loaded artifact. ``inputs`` and ``outputs`` are the artifact's own: dtype, scale and zero point included."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Outputs in the model's order for arrays in the model's order and dtypes.

        Floats given for an integer input are quantized, integer outputs of a float model are dequantized: the same
        arrays go into every artifact and comparable ones come out.
        """

    def raw(self, *arrays: Array) -> None:
        """One inference on arrays already in the artifact's own dtypes: what is timed."""

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        """``arrays`` in the artifact's own dtypes, for :meth:`raw`."""


@runtime_checkable
class Examined(Protocol):
    """A predictor that can tell what goes wrong inside and does not show in every output."""

    def examine(self, *arrays: Array) -> tuple[tuple[Array, ...], tuple[str, ...]]:
        """Outputs as a call gives them, and findings over every call of this so far, one line each."""


@runtime_checkable
class Differing(Protocol):
    """A converter whose runtime may, on this CPU, compute something else than the artifact says and its target computes."""

    def difference(self, path: Path) -> str:
        """Why this CPU's kernels give other results for the artifact; "" where they do not."""

    def load_as_written(self, path: Path, *, threads: int) -> Predictor:
        """The artifact computed as it is written, without the kernels that differ."""

    def kernels(self) -> str:
        """What sets this CPU's kernels apart from others', for the keys of what is remembered; "" where nothing does."""


class Converter(Protocol):
    """One artifact format."""

    suffix: str
    runs_here: bool
    """Whether :meth:`load` can run the artifact on this machine."""
    stand_in: str
    """What :meth:`load` gives where the format's own runtime is not here, in words; empty where it is. Only that is timed."""

    preload: tuple[str, ...]
    """What lowering and running need: modules imported, and each ``module:function`` called, once before workers are forked."""
    folds_weights: bool
    """Whether a quantized program comes with its weights as integers already; else with the floats and their Q/DQ."""

    takes_long: bool
    """Whether lowering takes several times as long as to other formats."""

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """Lowers the saved ExportedProgram (``.pt2``) to ``out``. The same program always gives the same bytes.

        Raises ConversionError with the operator and the user's layer where the format cannot hold the program.
        """

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """Inputs, outputs and structure, read from the artifact itself."""

    def load(self, path: Path, *, threads: int) -> Predictor:
        """The artifact on its real runtime. Raises MissingExtra, or ConversionError where the runtime refuses it."""

    def tool_versions(self) -> dict[str, str]:
        """Versions of what made the artifact: they stand in the manifest and in the cache's key."""
