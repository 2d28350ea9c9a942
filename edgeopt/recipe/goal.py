"""A latency goal: the smallest amount of a technique with which the target's artifact is as fast as asked."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeopt.compress.technique import Context, Technique
from edgeopt.errors import BudgetUnmet, ConfigError
from edgeopt.options import ignore
from edgeopt.recipe.measure import latency_ms
from edgeopt.recipe.subject import Subject

MOST = 0.9
TRIALS = 5
"""Halvings of the range of amounts: it is then known to 0.03, finer than channels can be taken away."""


def reached(
    subject: Subject, technique: Technique, share: float, module: nn.Module, context: Context, folder: Path
) -> Technique:
    """``technique`` with the amount that brings the latency to ``share`` of the original's, on the recipe's device.

    Nothing is trained meanwhile: latency does not depend on it. Raises ConfigError where the recipe has no target or the
    technique no amount, BudgetUnmet where even taking away nine tenths does not reach it.
    """
    if subject.profile is None:
        raise ConfigError("latency needs a target to measure", fix='add target = "arm-xnnpack", for example')
    if "amount" not in {one.name for one in fields(technique)}:  # type: ignore[arg-type]
        raise ConfigError(f"{type(technique).__name__} has no amount to vary for latency", fix="give its own settings instead")
    untrained = replace(context, fit=None)

    def time(amount: float) -> float:
        tried: Any = replace(technique, amount=amount)  # type: ignore[type-var]
        ms = latency_ms(subject, tried.apply(module, untrained).module, folder / "latency", ignore)
        context.tell(f"amount {amount:.2f}: {ms:.3f} ms, goal {goal:.3f}")
        return ms

    goal = share * latency_ms(subject, subject.module, folder / "latency", ignore)
    low, high = 0.0, MOST
    if (fastest := time(high)) > goal:
        why = f"with amount {high:g} it takes {fastest:.3f} ms, {goal:.3f} ms were asked for"
        raise BudgetUnmet("the latency cannot be reached this way", why=why, fix="ask for less, or combine techniques")
    for _ in range(TRIALS):
        middle = (low + high) / 2
        low, high = (low, middle) if time(middle) <= goal else (middle, high)
    found: Technique = replace(technique, amount=high)  # type: ignore[type-var]
    return found
