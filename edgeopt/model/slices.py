"""Slices: what ``evaluate`` finds for a part of its data. ``top1/class=7`` is a slice of ``top1``, its first number.

A small loss on average can be a large one for a class, so what fell the most is what a person has to see.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fall:
    """One number of ``evaluate``, in its own unit, for the model and for what was made of it."""

    name: str
    before: float
    after: float

    @property
    def lost(self) -> float:
        """Above 0 where the number fell."""
        return self.before - self.after


def is_slice(name: str, metric: str) -> bool:
    """Whether ``name`` is a slice of the number ``metric``."""
    return name.startswith(f"{metric}/")


def slices(numbers: Mapping[str, float], metric: str) -> tuple[str, ...]:
    """The names among ``numbers`` that are slices of ``metric``, in their order."""
    return tuple(name for name in numbers if is_slice(name, metric))


def falls(before: Mapping[str, float], after: Mapping[str, float], names: Iterable[str]) -> list[Fall]:
    """Those of ``names`` that both sides have, what lost the most first."""
    both = (Fall(name, before[name], after[name]) for name in names if name in before and name in after)
    return sorted(both, key=lambda fall: fall.lost, reverse=True)
