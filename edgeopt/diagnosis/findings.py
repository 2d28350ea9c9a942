"""What was found about each layer: plain data, as ``edgeopt blame --json`` writes it."""

from edgeopt.core import Decision, Format, QuantScheme, data_class

BLAME_SCHEMA_VERSION = 1


@data_class
class OutlierChannel:
    """A channel whose greatest magnitude is ``times`` that of the median channel."""

    channel: int
    times: float


@data_class
class Range:
    """``minimum`` and ``maximum``: what calibration saw; ``low``, ``high``: the ends of the 8-bit grid, ``scale``: its step."""

    minimum: float
    maximum: float
    low: float
    high: float
    scale: float


@data_class
class Layer:
    """One layer: a convolution with the activation fused into it, a sum; or a value that integers read from floats.

    All ratios are SQNR in dB against the float model on held-out samples, at most 120. A layer answers for its weights and for
    the rounding of its result; the rounding of what it reads is that of the layer before.
    """

    layer: str
    operator: str
    line: str
    """The user's line, ``net.py, line 12: y = f(x)``; empty where it is not known."""
    in_float: str = ""
    """Why it is not computed in integers, where it is not."""
    own: float | None = None
    """Of its result with all in integers: what it reads, its weights, its result."""
    own_weights: float | None = None
    own_inputs: float | None = None
    own_result: float | None = None
    """Of its result with its weights alone, what it reads alone and its result alone in integers."""
    alone: float | None = None
    """Of the model's worst part with this layer alone in integers, also where it stays in float: then its result alone is
    rounded. None where the time did not suffice, as below, and where the target has no integers for it."""
    without: float | None = None
    """Of the same with all layers but this one in integers."""
    gain: float | None = None
    """``without`` less what the model has with all layers in integers."""
    share: float | None = None
    """Of the noise that all layers together bring into the model's worst part, in 0..1."""
    part: str = ""
    """The output, or channels of it, that this layer harms most."""
    reads: Range | None = None
    gives: Range | None = None
    """Of its first operand and of its result; None where a value stays in float."""
    clipped: float | None = None
    """Share of the result's values, on held-out samples, that the grid cuts off."""
    saturated: float | None = None
    """Share of them at the upper end of the layer's own clip (ReLU6); None where it has none."""
    channels: int | None = None
    dead: int = 0
    """Of the result's ``channels``, those that never change."""
    outliers: tuple[OutlierChannel, ...] = ()
    weight_outliers: tuple[OutlierChannel, ...] = ()
    weight_inputs: tuple[OutlierChannel, ...] = ()
    """Of the result's channels; of the weight's output channels, by the greatest weight over their root mean square; and of its
    input channels, by the greatest weight."""
    done: tuple[str, ...] = ()
    """What edgeopt did for this layer."""
    odd: tuple[str, ...] = ()
    """What is unusual about its values or weights, in words, whatever it costs."""
    remedy: str = ""

    @property
    def oddness(self) -> float:
        """How unusual what ``odd`` says is; 0 where it says nothing."""
        stands_out = [one.times / 8 for one in (*self.outliers, *self.weight_inputs)]
        stands_out += [one.times / 4 for one in self.weight_outliers]
        return max((*stands_out, 5 * (self.saturated or 0), 100 * (self.clipped or 0))) if self.odd else 0.0


@data_class
class Scores:
    """The first number of ``evaluate``: for the float model, with all in integers, and with the worst layers in float."""

    metric: str
    model: float
    integers: float | None = None
    without_worst: float | None = None
    worst: tuple[str, ...] = ()


@data_class
class Blame:
    """What :func:`edgeopt.blame` found. ``layers``: the worst first."""

    schema_version: int = BLAME_SCHEMA_VERSION
    model: str
    target: str
    format: Format
    scheme: QuantScheme
    calibrated: bool
    calibration: str
    samples: int
    """Held-out samples that the figures of whole layers come from."""
    whole: float
    """SQNR in dB of the model's worst part, ``part``, with all layers in integers that the target computes so."""
    part: str
    layers: tuple[Layer, ...]
    done: tuple[Decision, ...] = ()
    """What edgeopt did for all layers: equalization, rounding against data."""
    scores: Scores | None = None
    notes: tuple[str, ...] = ()
    seconds: float
    unmeasured: int = 0
    """Layers without ``alone`` or ``without`` for want of time."""
