"""A latency goal: the smallest amount of a technique with which the target's artifact is as fast as asked."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from torch import nn

from edgeopt.compress.technique import Context, Technique
from edgeopt.errors import BudgetUnmet, CompressionError, ConfigError
from edgeopt.options import ignore
from edgeopt.recipe.measure import latency_ms
from edgeopt.recipe.subject import Subject

MOST = 0.9
TRIALS = 6
"""Halvings of the range of amounts: it is then known to 0.015, finer than channels can be taken away."""


def reached(
    subject: Subject, technique: Technique, share: float, module: nn.Module, context: Context, folder: Path
) -> Technique:
    """``technique`` with the amount that brings the latency to ``share`` of the original's, on the recipe's device.

    Nothing is trained meanwhile: latency does not depend on it. Raises ConfigError where the recipe has no target or the
    technique no amount, BudgetUnmet where no amount up to nine tenths that the technique can take reaches it.
    """
    if subject.profile is None:
        raise ConfigError("latency needs a target to measure", fix='add target = "arm-xnnpack", for example')
    if "amount" not in {one.name for one in fields(technique)}:  # type: ignore[arg-type]
        raise ConfigError(f"{type(technique).__name__} has no amount to vary for latency", fix="give its own settings instead")
    untrained = replace(context, fit=None)

    def time(amount: float) -> float | None:
        try:
            smaller = _with(technique, amount).apply(module, untrained).module
        except CompressionError as error:
            context.tell(f"amount {amount:.2f}: {error.what}")
            return None
        ms = latency_ms(subject, smaller, folder / "latency", ignore)
        context.tell(f"amount {amount:.2f}: {ms:.3f} ms, goal {goal:.3f}")
        return ms

    goal = share * latency_ms(subject, subject.module, folder / "latency", ignore)
    found = smallest(time, goal)
    if found is None:
        why = f"no amount up to {MOST:g} that can be taken needs {goal:.3f} ms or less"
        raise BudgetUnmet("the latency cannot be reached this way", why=why, fix="ask for less, or combine techniques")
    return _with(technique, found)


def smallest(time: Callable[[float], float | None], goal: float) -> float | None:
    """The smallest amount found with a time of ``goal`` at most, by bisection; None where there is none.

    ``time`` is None for an amount that the technique cannot take: it is too much.
    """
    low, high, best = 0.0, MOST, None
    amount = MOST
    for _ in range(TRIALS + 1):
        found = time(amount)
        if found is None:
            high = amount
        elif found <= goal:
            best = high = amount
        else:
            low = amount
            if best is None and amount == MOST:
                return None
        amount = (low + high) / 2
    return best


def _with(technique: Technique, amount: float) -> Technique:
    changed: Technique = replace(technique, amount=amount)  # type: ignore[type-var]
    return changed
