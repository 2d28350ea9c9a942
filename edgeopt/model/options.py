"""What the user asks of one export, from the command line, edgeopt.toml or Python."""

from pathlib import Path

from edgeopt.core import Quality, data_class

DEFAULT_TIMEOUT_S = 900.0


@data_class
class Options:
    """How to export. Empty ``targets`` means every target.

    ``max_drop`` and ``max_slice_drop`` are in the unit of ``evaluate``'s first number and its slices.
    """

    out: Path
    targets: tuple[str, ...] = ()
    max_drop: float | None = None
    max_slice_drop: float | None = None
    min_sqnr: float | None = None
    """In dB, of every artifact's worst output against the model."""
    min_agreement: float | None = None
    """Share of the samples, between 0 and 1, in which an artifact chooses the model's class."""
    max_size: int | None = None
    """Bytes of every artifact's file; what integers leave of them goes to layers in floats."""
    io_float: bool = False
    """Floats in and out where the target's default is integers (arm-xnnpack, android-nnapi)."""
    never_slower: bool = False
    """Whether what is slower than its fp32 twin, on a CPU of its target's kind, is planned again: then a time decides."""
    strict_scheme: bool = False
    """A target whose preferred scheme does not work fails, instead of giving way to one that it prefers less."""
    quality: Quality = "balanced"
    """How much is done for integer targets: ``fast`` takes ranges and the nearest weights, ``best`` takes its time."""
    latency_table: Path | None = None
    """Of ``edgeopt bench --layers``: its times take the place of its target's costs."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    jobs: int = 2
    use_cache: bool = True
