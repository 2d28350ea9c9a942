"""What a target's TOML may say. Every setting has a source; an unknown key is an error that names the nearest known one."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from edgeopt.core import Format, QuantScheme, data_class
from edgeopt.support.processor import Processor

OperatorKind = Literal[
    "conv", "conv_transpose", "linear", "matmul", "embedding", "add", "mul", "sub", "div", "relu", "relu6", "hardtanh",
    "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "gelu", "leaky_relu", "elu", "prelu", "softmax", "layer_norm",
    "group_norm", "batch_norm", "max_pool", "avg_pool", "adaptive_avg_pool", "mean", "concat", "reshape", "transpose",
    "slice", "pad", "gather", "resize_nearest", "resize_bilinear", "attention", "sum", "exp", "rsqrt", "pow",
]  # fmt: skip

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""It is the name of a folder in the bundle, and stands in tables, logs and command lines."""
_Text = Annotated[str, Field(max_length=2000)]
_Count = Annotated[int, Field(ge=1, le=1 << 20)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_ZeroPoint = Annotated[int, Field(ge=-128, le=255)]


@data_class
class IoSettings:
    """``float_type`` is the dtype in which the artifact takes and gives what the model has as floats."""

    float_type: Literal["int8", "uint8", "float16", "float32"] = "float32"
    selectable: tuple[Literal["int8", "uint8", "float16", "float32"], ...] = ()


@data_class
class Limits:
    """What the runtime or the device cannot go beyond; None is no limit."""

    opset: Annotated[int, Field(ge=7, le=100)] | None = None
    minimum_os: _Text | None = None
    specification_version: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_rank: _Count | None = None
    max_depthwise_kernel: _Count | None = None
    """Greatest side of a depthwise kernel that the runtime's integer kernels are fast with; larger ones stay in float."""
    dynamic_shapes: bool = False


@data_class
class OperatorSettings:
    """Which operators the runtime computes in integers, and what it asks of their quantization parameters.

    ``integer``: kinds with integer kernels; every other kind stays in float.
    ``opened``: activations that are written out in others of these kinds, whose integer kernels are faster.
    ``fused``: activations that disappear into what feeds them (one pattern, no Q/DQ between).
    ``shared_range``: kinds whose inputs and outputs must have one scale and zero point.
    ``fixed_output``: kinds whose output must have this (scale, zero point).
    ``float_output``: kinds that can take integers and give floats at no extra cost.
    ``float_last``: kinds that do so where float outputs are made of their result and nothing computes with it any more: what is
    ranked (logits, scores) would tie in 8 bits.
    ``table``: a file below targets/operators/ that lists the format's operators the device supports.
    ``cpu``: the format's operators that the runtime leaves to the CPU, whatever accelerator the target is for.
    """

    integer: tuple[OperatorKind, ...] = ()
    opened: tuple[Literal["hardswish", "silu"], ...] = ()
    fused: tuple[OperatorKind, ...] = ()
    shared_range: tuple[OperatorKind, ...] = ()
    fixed_output: dict[OperatorKind, tuple[_Scale, _ZeroPoint]] = field(default_factory=dict)
    float_output: tuple[OperatorKind, ...] = ()
    float_last: tuple[OperatorKind, ...] = ()
    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.toml$")] | None = None
    cpu: tuple[str, ...] = ()


@data_class
class MeasuredCosts:
    """What was measured of one model, in microseconds; an export puts it in the place of the profile's own costs.

    ``saved``: by the name of an operator's output, its time in floats less that in integers. ``quantize`` and ``dequantize``:
    per element. ``unit``: what one of the profile's costs comes to, for operators that were not measured. ``source``: for
    people, where the figures come from.
    """

    quantize: _Cost
    dequantize: _Cost
    unit: _Scale
    saved: dict[str, _Number] = field(default_factory=dict)
    source: str = ""


@data_class
class Costs:
    """Relative costs that decide whether a light operator between float ones is worth its Q/DQ; per element or per MAC."""

    quantize: _Cost = 1.0
    dequantize: _Cost = 1.0
    element_gain: _Cost = 0.5
    mac_gain: _Cost = 0.1
    measured: MeasuredCosts | None = None


@data_class
class Sparsity:
    """N:M pattern along the reduction axis, and the layers in which it can pay."""

    pattern: Literal["2:4"]
    min_input_channels: _Count
    min_output_channels: _Count
    channel_multiple: _Count


@data_class
class Checks:
    """Limits an artifact must meet. ``program_*``: against the PyTorch program it was lowered from; ``float_*``: the model.

    0 dB against the model is what silence has, and an output of nothing but zeros; 3 dB is half as much noise as signal.
    """

    program_sqnr_db: _Number = 20.0
    float_sqnr_db: _Number = 3.0


@data_class
class TargetProfile:
    """One hardware and runtime, as ``targets/NAME.toml`` describes it. ``schemes`` stand in order of preference.

    ``processor``: the kind of CPU that its artifacts run on. Where this computer has one, times here are the target's; None is
    an accelerator, or what is not known, and no time here judges it.
    """

    name: Name
    summary: _Text
    formats: tuple[Format, ...]
    runtime: _Text
    schemes: Annotated[tuple[QuantScheme, ...], Field(max_length=16)]
    sources: dict[str, str]
    status: Literal["current", "legacy"] = "current"
    status_note: _Text = ""
    processor: Processor | None = None
    runtime_options: dict[str, str | int | bool] = field(default_factory=dict)
    io: IoSettings = field(default_factory=IoSettings)
    limits: Limits = field(default_factory=Limits)
    operators: OperatorSettings = field(default_factory=OperatorSettings)
    costs: Costs = field(default_factory=Costs)
    sparsity: Sparsity | None = None
    channel_multiple: _Count = 8
    """What the kernels compute at once along the channels: counts between two multiples cost as much as the upper one."""
    checks: Checks = field(default_factory=Checks)

    def __post_init__(self) -> None:
        if twice := next((one for one in self.formats if self.formats.count(one) > 1), None):
            raise ValueError(f"formats names {twice} twice")
        if any(scheme.palette_bits for scheme in self.schemes) and self.formats != ("coreml",):
            raise ValueError("only Core ML stores palettes: the formats of a target with the weights lut4 or lut6 are [coreml]")
