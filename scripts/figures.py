"""How the scripts that measure print what they find."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number and its goal, both in ``unit``; a goal of None is a number shown but not judged."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        judged = "" if self.goal is None else f"   goal {self.goal:g}: {'met' if self.value <= self.goal else 'MISSED'}"
        return f"{self.name:<58} {self.value:8.{self.digits}f} {self.unit:<4}{judged}"
