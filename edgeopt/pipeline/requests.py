"""What the stages ask of workers, and what these answer: plain data, validated on both sides of the socket."""

from pathlib import Path

from edgeopt.core import Structure, TensorSpec, data_class
from edgeopt.targets.schema import TargetProfile


@data_class
class ConvertRequest:
    """Lower ``program``, a ``.pt2`` file, to ``out`` by the first scheme of ``profile``. Answered by :class:`Facts`."""

    format: str
    profile: TargetProfile
    program: Path
    out: Path
    io_float: bool
    output_names: tuple[str, ...]


@data_class
class InspectRequest:
    """Read the artifact at ``out``, and hold it against the operator table of ``profile``. Answered by :class:`Facts`."""

    format: str
    profile: TargetProfile
    out: Path


@data_class
class Facts:
    """What an artifact says of itself; ``tool_versions``: of what has just made it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    structure: Structure
    tool_versions: dict[str, str]


@data_class
class CheckRequest:
    """Compare the artifact at ``out`` with the user's own module, by ``references``, and with the program it was lowered from.

    ``quantized``: that program is another function than the module. ``exact``: nothing but rounding of float32 may differ.
    ``real``: there is data of the user's, and ``held_out``: the samples are of it. ``further_s``: how many seconds more samples
    than the first few may take. Answered by :class:`edgeopt.verify.verdicts.Proof`.
    """

    format: str
    profile: TargetProfile
    program: Path
    out: Path
    references: Path
    quantized: bool
    exact: bool
    real: bool
    held_out: bool
    further_s: float


@data_class
class PredictRequest:
    """Load the artifact at ``out``: a session that computes arrays from arrays."""

    format: str
    out: Path
    threads: int


@data_class
class TimeRequest:
    """Time the artifact at ``out`` and ``twin`` in turns, on the first sample of ``references``. Answered by a Latency."""

    format: str
    out: Path
    twin: Path
    references: Path
    threads: int
