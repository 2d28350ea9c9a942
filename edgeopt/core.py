"""The plain data that flows between the stages: frozen, keyword-only, validated, and able to round-trip through JSON.

Live torch objects exist only up to ``convert``; everything here can be written to a file and read back:

    TargetProfile --plan--> Plan --convert--> Artifact --verify--> Verdict, ... --> TargetResult --> Manifest
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import TypeAdapter

Format = Literal["onnx", "tflite", "coreml", "pt2"]
Status = Literal["ok", "unverified", "failed", "skipped"]
"""``unverified``: made, but nothing here could run it to prove it."""
ActivationDtype = Literal["int8", "uint8", "float16", "float32"]
WeightDtype = Literal["int8", "lut4", "lut6", "float16", "float32"]
"""``lut4``, ``lut6``: indices of 4 or 6 bits into a palette, a table of 16 or 64 floats."""
Observer = Literal["minmax", "mse", "percentile"]
Quality = Literal["fast", "balanced", "best"]
"""How much is done so that integers keep what the model computes; ``balanced`` where nothing is said."""

MANIFEST_SCHEMA_VERSION = 1
MANIFEST_NAME, SUMS_NAME, LOG_FOLDER = "manifest.json", "SHA256SUMS", "logs"
"""What a bundle has besides a folder for each target."""
TWIN = "portable-fp32"
"""The target that is always made: everything else is compared with it."""
KERNELS = "this CPU's kernels"
AS_WRITTEN = "the file as written"
"""What computed an artifact where it was proved; for Core ML it is an evaluator, elsewhere than on Apple's systems."""
SPEED_LIMIT = 1.05
"""Time over the fp32 twin's from which an artifact is slower: two timings of one file differ by a few percent."""
T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def data_class(cls: type[T]) -> type[T]:
    """Frozen, slotted, keyword-only dataclass that refuses unknown keys when it is read from JSON or TOML."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def to_data(value: Any) -> Any:
    """``value``, one of this module's types, as dicts, lists, strings and numbers."""
    return _adapter(type(value)).dump_python(value, mode="json")


def to_json(value: Any) -> str:
    """``value`` as indented JSON; the same value always gives the same text."""
    return _adapter(type(value)).dump_json(value, indent=2).decode() + "\n"


def from_data(cls: type[T], data: Any) -> T:
    """The ``cls`` that ``data`` describes. Raises pydantic.ValidationError where it does not fit, unknown keys included."""
    value: T = _adapter(cls).validate_python(data)
    return value


def from_json(cls: type[T], text: str | bytes) -> T:
    """As :func:`from_data`, from JSON text."""
    value: T = _adapter(cls).validate_json(text)
    return value


@data_class
class TensorSpec:
    """One input or output. ``scale`` and ``zero_point`` are given where the artifact itself takes or gives integers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@data_class
class QuantScheme:
    """How numbers are stored and computed. Integer weights are always symmetric, per output channel where ``per_channel``.

    ``symmetric`` activations have zero in the middle of their integers; of uint8 those that are never negative begin with it.
    Weights of int8 or with palettes beside float activations are only stored so: the arithmetic stays in floats.
    """

    activation: ActivationDtype
    weight: WeightDtype
    symmetric: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    observer: Observer = "mse"
    bias: Literal["float32", "int32"] = "float32"
    """``int32`` stores biases as integers with the scale of input times weight, where the runtime asks for it in the file."""
    palette_channels: int | None = None
    """Output channels that share a palette; None is the whole weight. A weight that it does not divide has one palette."""

    def __post_init__(self) -> None:
        if self.integer and self.weight != "int8":
            raise ValueError(f"activations {self.activation} and weights {self.weight} do not go together")
        if self.palette_channels is not None and (self.palette_bits is None or self.palette_channels < 1):
            raise ValueError("palette_channels is 1 or more, and goes with the weights lut4 and lut6")

    @property
    def integer(self) -> bool:
        """Whether activations and weights are 8-bit integers (else nothing is quantized by PT2E)."""
        return self.activation in ("int8", "uint8")

    @property
    def palette_bits(self) -> int | None:
        """Bits of an index into a palette; None where weights have none."""
        return int(self.weight[3:]) if self.weight.startswith("lut") else None

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in fewer bits than floats have; activations stay floats where not ``integer``."""
        return self.weight not in ("float16", "float32")

    def describe(self) -> str:
        """A short name in the field's terms, such as ``u8 affine / s8 per-channel``."""
        if self.integer:
            activation = f"{'u8' if self.activation == 'uint8' else 's8'} {'symmetric' if self.symmetric else 'affine'}"
        else:
            activation = {"float32": "fp32", "float16": "fp16"}[self.activation]
        if not self.quantized:
            return activation
        if self.palette_bits:
            shared = f" per {self.palette_channels} channels" if self.palette_channels else ""
            return f"{activation} / {self.palette_bits}-bit palette{shared}"
        return f"{activation} / s{7 if self.reduce_range else 8} {'per-channel' if self.per_channel else 'per-tensor'}"

    def short(self) -> str:
        """The shortest name that the field has for it, such as ``W8A8``; weights are per channel where it says nothing else.

        Integers beside float activations are not called W8A16: that may as well mean activations of 16-bit integers.
        """
        if self.palette_bits:
            return f"{self.palette_bits}-bit palette"
        if not self.quantized:
            return self.describe()
        bits = f"W{7 if self.reduce_range else 8}{'A8' if self.integer else ' weight-only'}"
        return bits if self.per_channel else f"{bits} per-tensor"


@data_class
class Decision:
    """One choice that the tool took for its user, and why."""

    subject: str
    choice: str
    reason: str


@data_class
class RefusedScheme:
    """A scheme that a target prefers to the one its artifact has, and why it does not work for this model."""

    scheme: QuantScheme
    reason: str


@data_class
class KeptFloat:
    """One operator of the program that is not computed in integers, and why. ``layer`` is the user's module path."""

    layer: str
    operator: str
    reason: str


@data_class
class SparseLayer:
    """One layer that a sparsity pattern was considered for: ``pruned`` or left dense for ``reason``."""

    layer: str
    pruned: bool
    reason: str


@data_class
class Plan:
    """What will be made for one target and format, with every reason. ``edgeopt plan`` prints it; the manifest keeps it."""

    target: str
    format: Format
    scheme: QuantScheme
    io_float: bool
    refused: tuple[RefusedScheme, ...] = ()
    """What gave way to ``scheme``, in the target's order of preference: the first is the one that it prefers to all others."""
    kept_float: tuple[KeptFloat, ...] = ()
    sparse_layers: tuple[SparseLayer, ...] = ()
    decisions: tuple[Decision, ...] = ()
    integer_weights: float | None = None
    """Share of the stored numbers that belong to operators computed in integers; None where the scheme computes in floats."""
    integer_macs: float | None = None
    """Share of the multiply-accumulates that are computed in integers; None as above."""
    float_macs: float | None = None
    """Share of the multiply-accumulates that belong to ``kept_float``; None where the scheme quantizes nothing."""

    @property
    def float_layers(self) -> int:
        """How many layers ``kept_float`` names, in some of which it may be one operator of several."""
        return len({kept.layer for kept in self.kept_float})


@data_class
class Structure:
    """What an artifact consists of: operators by kind, and those that only move or convert data."""

    operators: dict[str, int]
    quantize: int = 0
    dequantize: int = 0
    transpose: int = 0
    unsupported: tuple[str, ...] = ()


@data_class
class Artifact:
    """One converted file or package. ``path`` is relative to the bundle; ``bytes`` and ``sha256`` cover all its files."""

    path: str
    format: Format
    sha256: str
    bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    structure: Structure
    tool_versions: dict[str, str]


@data_class
class Verdict:
    """One check: its number, its limit and whether it passed. ``limit`` None is a number shown but not judged.

    ``part``: the output or channel that has the number, where there are several; the worst one is meant. ``compared``: what
    computed the artifact's side: the file as written, this CPU's kernels, an evaluator. ``interval``: the least and the
    greatest value that ``rows``, as few as they are, leave likely (95 %); None where the value is no share of rows.
    """

    check: str
    value: float | None
    unit: str = ""
    limit: float | None = None
    passed: bool = True
    note: str = ""
    part: str = ""
    compared: str = ""
    interval: tuple[float, float] | None = None
    rows: int | None = None


@data_class
class Latency:
    """Median latency here of an artifact and of its fp32 twin in the same runtime, interleaved A B A B; milliseconds."""

    median_ms: float
    twin_ms: float
    runs: int
    threads: int

    @property
    def ratio(self) -> float:
        """Time of the artifact over time of its twin: below 1 is faster."""
        return self.median_ms / self.twin_ms


@data_class
class TargetResult:
    """What became of one target and format."""

    target: str
    format: Format
    status: Status
    reason: str = ""
    plan: Plan | None = None
    artifact: Artifact | None = None
    verdicts: tuple[Verdict, ...] = ()
    accuracy: dict[str, float] = field(default_factory=dict)
    accuracy_interval: tuple[float, float] | None = None
    """Of the first number, where that can be a share of the rows that ``evaluate`` asked for (95 %)."""
    latency: Latency | None = None
    warnings: tuple[str, ...] = ()
    calibrated: bool = True
    error: str = ""
    """Name of the class in errors.py, where ``status`` is failed."""


@data_class
class ModelFacts:
    """The captured model: sha256 of its program, its size, and what it takes and gives."""

    name: str
    sha256: str
    parameters: int
    macs: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accuracy: dict[str, float] = field(default_factory=dict)
    accuracy_interval: tuple[float, float] | None = None
    """As that of a :class:`TargetResult`."""


@data_class
class Manifest:
    """``manifest.json`` of a bundle."""

    schema_version: int = MANIFEST_SCHEMA_VERSION
    edgeopt_version: str
    model: ModelFacts
    calibration: str
    results: tuple[TargetResult, ...]
