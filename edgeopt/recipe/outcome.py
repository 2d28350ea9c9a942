"""What a recipe came to, as plain data: ``DIR/outcome.json``."""

from dataclasses import field
from typing import Literal

from edgeopt.compress.common.measures import Size
from edgeopt.compress.search.latency_goal import AmountTrial
from edgeopt.compress.technique import Record
from edgeopt.core import Format, Status, data_class

OUTCOME_SCHEMA_VERSION = 1


@data_class
class MadeFor:
    """The artifact of one target, made of the module as it was: ``ms`` on the recipe's device, ``scores`` from ``evaluate``."""

    target: str
    format: Format
    status: Status
    bytes: int | None = None
    zstd_bytes: int | None = None
    ms: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@data_class
class Worth:
    """A module: its size, the user's numbers for it, and the artifacts made of it."""

    size: Size
    scores: dict[str, float] = field(default_factory=dict)
    artifacts: tuple[MadeFor, ...] = ()

    @property
    def score(self) -> float | None:
        """The number that the gate judges: the first that ``evaluate`` gives."""
        return next(iter(self.scores.values()), None)

    def ms_of(self, target: str | None) -> float | None:
        """The latency of the target's fastest artifact; None where none was measured."""
        return min((made.ms for made in self.artifacts if made.target == target and made.ms is not None), default=None)

    def bytes_of(self, target: str | None) -> int | None:
        """The size of the target's smallest artifact; None where none was made."""
        return min((made.bytes for made in self.artifacts if made.target == target and made.bytes is not None), default=None)


@data_class
class Goal:
    """A step's latency goal: ``share`` of ``original_ms`` is ``ms``. ``amount``: the smallest of ``trials`` that reached it."""

    share: float
    original_ms: float
    ms: float
    amount: float
    trials: tuple[AmountTrial, ...]


@data_class
class StepOutcome:
    """One step. ``status`` stopped: it was done, and cost more than the gate allows; the module before it is the best."""

    number: int
    technique: str
    epochs: int
    record: Record
    measured: Worth
    status: Literal["kept", "stopped"]
    reason: str = ""
    seconds: float = 0.0
    goal: Goal | None = None


@data_class
class Outcome:
    """A whole recipe. ``device``: where every ``ms`` was measured, on one thread. ``best`` is the number of the step whose
    module was kept, 0 for the original.
    """

    schema_version: int = OUTCOME_SCHEMA_VERSION
    edgeopt_version: str
    model: str
    target: str | None
    device: str
    max_drop: float | None
    original: Worth
    steps: tuple[StepOutcome, ...] = ()
    best: int = 0
    notes: tuple[str, ...] = ()
    over: str = ""
    """By how much the kept module's artifact is beyond the recipe's budgets; "" where it is within them."""

    @property
    def kept(self) -> Worth:
        """The figures of the module that was kept."""
        return next((step.measured for step in self.steps if step.number == self.best), self.original)
