"""What ``edgeopt advise`` finds, as plain data."""

from dataclasses import field
from typing import Any

from edgeopt.compress.advice.architecture import Architecture
from edgeopt.compress.advice.sensitivity import Sensitivity
from edgeopt.core import data_class

ADVICE_SCHEMA_VERSION = 1


@data_class
class Budgets:
    """What must not be exceeded; None is no limit. ``max_drop`` is in the unit of ``evaluate``'s first number."""

    max_bytes: int | None = None
    max_latency_ms: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_latency_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}: a budget is above 0")
        if self.max_drop is not None and not 0 <= self.max_drop < float("inf"):
            raise ValueError(f"max_drop is {self.max_drop}: give 0 or more")


@data_class
class Figures:
    """A model's parameters and multiply-accumulates, and the bytes expected of the target's artifact.

    ``latency_ms`` is measured; None where it was not.
    """

    parameters: int
    macs: int
    bytes: int
    latency_ms: float | None = None


@data_class
class AdvisedStep:
    """One technique with its settings. ``after``: the figures once it was applied, really but untrained."""

    technique: str
    settings: dict[str, Any]
    after: Figures
    reason: str

    def describe(self) -> str:
        """``channels (amount 0.5)``."""
        return described(self.technique, self.settings)


@data_class
class Refusal:
    """A technique that is not advised, and why."""

    technique: str
    reason: str


@data_class
class Advice:
    """Steps that meet the budgets, in order; none where the export alone does. ``before``: the model as it is, exported.

    ``sensitivity``: the scan by which layers were left whole, where there was one.
    """

    schema_version: int = ADVICE_SCHEMA_VERSION
    model: str
    target: str
    scheme: str
    budgets: Budgets
    architecture: Architecture
    before: Figures
    steps: tuple[AdvisedStep, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = field(default=())
    sensitivity: Sensitivity | None = None

    @property
    def after(self) -> Figures:
        """The figures after the last step."""
        return self.steps[-1].after if self.steps else self.before


def described(technique: str, settings: dict[str, Any]) -> str:
    """``channels (amount 0.5)``: a technique and its settings, in a line."""
    said = ", ".join(f"{name} {_in_words(value)}" for name, value in settings.items())
    return f"{technique} ({said})" if said else technique


def _in_words(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)
