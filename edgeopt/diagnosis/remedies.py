"""What can be done about a layer, in one plain sentence: only what helps against what was measured."""

from dataclasses import dataclass

from edgeopt.capture.operator_kinds import JOINS
from edgeopt.core import QuantScheme
from edgeopt.diagnosis.findings import Layer, Range
from edgeopt.quantize.rounding import LEAST_SAMPLES
from edgeopt.targets.schema import TargetProfile

LITTLE_DB = 40.0
"""A layer that leaves the model as much alone needs nothing."""
MUCH_CLIPPED = 1e-3
MUCH_SATURATED = 0.2
BEYOND = 1.05
"""Times the calibrated range, from which held-out values are said to be beyond it."""
TAILED_DB = 30.0
"""8 bits leave 48 dB of values that fill their range evenly, and some 40 of a normal distribution's."""
_LEFT = "what is left is training for integers, or a target with float activations"
APART_DB = 3.0
"""Twice the power: what is that much worse than another is what counts."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What advice depends on besides the layer. ``joined``: the layers whose values share a scale that is too coarse."""

    profile: TargetProfile
    scheme: QuantScheme
    samples: int
    """For calibration; 0: none were given."""
    leaves_in_integers: bool = False
    """Whether its result leaves the model as integers, and need not."""
    joined: tuple[str, ...] = ()
    reach: float = 0.0
    """The greatest magnitude of the result on held-out samples."""
    target: object = None
    """The operator as the program has it."""


def remedy(layer: Layer, around: Circumstances) -> str:
    """For one layer with its figures."""
    if layer.in_float:
        return _in_float(layer, around)
    if layer.alone is not None and layer.alone >= LITTLE_DB:
        return "none needed"
    if not around.samples:
        return "give --calibration: its range comes from the example alone"
    if around.joined:
        return _apart(around.joined)
    result, weights = layer.own_result, layer.own_weights
    if weights is not None and (result is None or weights + APART_DB < result):
        return _for_weights(layer, around)
    return _for_values(layer, around)


def odd(layer: Layer) -> tuple[str, ...]:
    """What is unusual about a layer's values and weights, whatever it costs."""
    found = []
    if layer.outliers:
        first = layer.outliers[0]
        found.append(f"channel {first.channel} reaches {first.times:.0f} times what the median channel does")
    if layer.weight_outliers:
        first = layer.weight_outliers[0]
        found.append(f"in output channel {first.channel} one weight stands out {first.times:.1f} times more than is usual here")
    if layer.weight_inputs:
        first = layer.weight_inputs[0]
        found.append(f"the weights of input channel {first.channel} reach {first.times:.0f} times what is usual here")
    if layer.saturated is not None and layer.saturated >= MUCH_SATURATED:
        found.append(f"{layer.saturated:.0%} of its values stand at its own clip")
    if layer.clipped is not None and layer.clipped >= MUCH_CLIPPED:
        found.append(f"8 bits cut off {layer.clipped:.2%} of its values")
    if layer.channels and layer.dead > layer.channels // 2:
        found.append(f"{layer.dead} of {layer.channels} channels never change")
    return tuple(found)


def _in_float(layer: Layer, around: Circumstances) -> str:
    if layer.alone is None:
        return "none needed: edgeopt leaves it in float"
    if around.target in JOINS:
        return "edgeopt leaves it in float; with its parts as outputs of their own, all of them can be integers"
    if layer.outliers:
        return (
            f"edgeopt leaves it in float; scale channel {layer.outliers[0].channel} down where it is made and up where it is "
            "read, or train with weight decay, and it can be integer"
        )
    return "edgeopt leaves it in float"


def _apart(joined: tuple[str, ...]) -> str:
    names = ", ".join(joined[:3])
    return f"it gives one scale to parts of unlike ranges, and {names} get little of it: return them as outputs of their own"


def _for_weights(layer: Layer, around: Circumstances) -> str:
    if not around.scheme.per_channel:
        return f"its weights share one scale on {around.profile.name}: a target with per-channel weights keeps more of them"
    if layer.weight_outliers:
        channel = layer.weight_outliers[0].channel
        return f"clip the weight that stands out in output channel {channel}, or train with weight decay: others get few steps"
    if layer.weight_inputs:
        first = layer.weight_inputs[0]
        return (
            f"the weights of input channel {first.channel} are {first.times:.0f} times as large as usual and take the others' "
            "steps: set them to 0 if that channel carries nothing, else scale the channel up where it is made"
        )
    if around.scheme.reduce_range:
        return "its weights have 7 bits here: on a CPU with VNNI use x86-fbgemm, which has 8"
    if around.samples < LEAST_SAMPLES:
        return f"give {LEAST_SAMPLES} calibration samples or more: edgeopt then rounds its weights against data"
    return f"its weights need more than 8 bits: {_LEFT}"


def _for_values(layer: Layer, around: Circumstances) -> str:
    gives = layer.gives
    if gives is not None and layer.clipped is not None and layer.clipped >= MUCH_CLIPPED:
        if around.reach > BEYOND * max(-gives.minimum, gives.maximum):
            return (
                f"calibrate on samples like those held out: they reach {around.reach:.3g}, calibration saw {_ends(gives)}"
            )  # fmt: skip
        if around.scheme.observer != "minmax":
            return (
                f'its range was cut to [{gives.low:.3g}, {gives.high:.3g}] for finer steps: a target with observer = "minmax" '
                "cuts off nothing"
            )
    if layer.outliers and gives is not None:
        first = layer.outliers[0]
        if layer.operator == "input":
            return f"channel {first.channel} alone needs the range {_ends(gives)}: bring the input's channels to one scale"
        return (
            f"channel {first.channel} alone needs the range {_ends(gives)}: scale it down where it is made and up where it is "
            "read, or train with weight decay"
        )
    if around.leaves_in_integers and layer.operator in around.profile.operators.float_output:
        return "export with --float-io: its result then leaves the model in floats"
    if gives is not None and layer.own_result is not None and layer.own_result < TAILED_DB:
        return (
            f"rare values set its range {_ends(gives)}, most lie far within: bound them in training, by a clip or weight decay"
        )
    return f"its values fill their range, and 256 steps are too few: {_LEFT}"


def _ends(seen: Range) -> str:
    return f"[{seen.minimum:.3g}, {seen.maximum:.3g}]"
