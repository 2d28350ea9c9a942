"""A latency goal: the smallest amount of a technique with which a module is as fast as asked, by measuring.

measure = on_device(target="arm-xnnpack", device="pixel8")                # edgeopt.latency.modules; or any function of yours
chosen = within(Channels(), 2.5, net, context, lambda smaller: measure(smaller, image))
compressed = chosen.technique.apply(net, context)                         # 2.5 ms there, or less
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from torch import nn

from edgeopt.compress.technique import Context, Technique
from edgeopt.core import data_class
from edgeopt.errors import BudgetUnmet, CompressionError, ConfigError

MOST = 0.9
HALVINGS = 6
"""Of the range of amounts: it is then known to 0.015, finer than channels can be taken away."""


@data_class
class AmountTrial:
    """One amount. ``ms`` None: the technique cannot take so much, for ``reason``."""

    amount: float
    ms: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """``amount 0.45: 1.234 ms``."""
        return f"amount {self.amount:.2f}: {self.said}"

    @property
    def said(self) -> str:
        """``1.234 ms``, or why not."""
        return self.reason if self.ms is None else f"{self.ms:.3g} ms"


@dataclass(frozen=True, slots=True)
class ChosenAmount:
    """``technique`` with the ``amount`` found, and what was tried for it, in order."""

    technique: Technique
    amount: float
    trials: tuple[AmountTrial, ...]


def has_amount(technique: Technique) -> bool:
    """Whether the technique can be varied by ``amount``."""
    return "amount" in {one.name for one in fields(technique)}  # type: ignore[arg-type]


def within(
    technique: Technique, goal_ms: float, module: nn.Module, context: Context, time: Callable[[nn.Module], float],
    tell: Callable[[AmountTrial], None] = lambda trial: None,
) -> ChosenAmount:  # fmt: skip
    """``technique`` with the smallest amount found with which ``time(compressed module)`` is ``goal_ms`` or less.

    Nothing is trained meanwhile: latency does not depend on it. ``tell`` gets every trial. Raises ConfigError where the
    technique has no amount, BudgetUnmet where no amount up to nine tenths that it can take reaches the goal.
    """
    if not has_amount(technique):
        raise ConfigError(f"{type(technique).__name__} has no amount to vary for latency", fix="give its own settings instead")
    untrained, trials = replace(context, fit=None), list[AmountTrial]()

    def tried(amount: float) -> float | None:
        try:
            trial = AmountTrial(amount=amount, ms=time(_with(technique, amount).apply(module, untrained).module))
        except CompressionError as error:
            trial = AmountTrial(amount=amount, reason=error.what)
        trials.append(trial)
        tell(trial)
        return trial.ms

    found = smallest(tried, goal_ms)
    if found is None:
        raise _unmet(goal_ms, trials)
    return ChosenAmount(_with(technique, found), found, tuple(trials))


def smallest(time: Callable[[float], float | None], goal: float) -> float | None:
    """The smallest amount found with a time of ``goal`` at most, by bisection; None where there is none.

    ``time`` is None for an amount that the technique cannot take: it is too much.
    """
    low, high, best = 0.0, MOST, None
    amount = MOST
    for _ in range(HALVINGS + 1):
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


def _unmet(goal_ms: float, trials: list[AmountTrial]) -> BudgetUnmet:
    timed = [trial for trial in trials if trial.ms is not None]
    fastest = min(timed, key=lambda trial: trial.ms or 0.0, default=None)
    why = f"the fastest that was tried, {fastest.text}" if fastest else f"no amount can be taken: {trials[-1].reason}"
    fix = "ask for less, or take other techniques first; what a call costs whatever it computes stays"
    return BudgetUnmet(f"{goal_ms:.3g} ms cannot be reached this way", why=why, fix=fix)


def _with(technique: Technique, amount: float) -> Technique:
    changed: Technique = replace(technique, amount=amount)  # type: ignore[type-var]
    return changed
