"""What an architecture search found, as plain data."""

from typing import Literal

from edgeopt.compress.search.family import Architecture, described
from edgeopt.core import data_class
from edgeopt.errors import BudgetUnmet

Cost = Literal["macs", "latency_ms"]


@data_class
class Trial:
    """One architecture. ``scores``: what ``evaluate`` gave, the first is the one searched for. ``macs``: of one call.

    ``latency_source``: ``measured``, or ``predicted`` with what of the prediction was interpolated. ``reason``: why it failed.
    """

    number: int
    architecture: Architecture
    scores: dict[str, float]
    macs: int
    parameters: int
    latency_ms: float | None = None
    latency_source: str = ""
    reason: str = ""
    error: str = ""
    """Name of the class in errors.py, where it failed."""

    @property
    def score(self) -> float:
        """The first number of ``evaluate``; of a failed trial minus infinity."""
        return next(iter(self.scores.values()), float("-inf"))

    def cost(self, kind: Cost) -> float:
        """MACs, or milliseconds; infinite where unknown."""
        value = self.macs if kind == "macs" else self.latency_ms
        return float("inf") if value is None else float(value)

    @property
    def name(self) -> str:
        """``width 0.5, depth 2``."""
        return described(self.architecture)


@data_class
class Found:
    """Every distinct architecture that was tried, and the Pareto front: none is both as accurate and cheaper, or the reverse.

    ``metric``: the first key of ``scores``. ``cost``: what was weighed against it. The front goes from cheap to dear.
    """

    metric: str
    cost: Cost
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    def best(self, max_cost: float = float("inf"), min_score: float = float("-inf")) -> Trial:
        """The most accurate trial up to ``max_cost`` (MACs or ms); with ``min_score`` the cheapest that reaches it.

        Raises BudgetUnmet with the nearest one.
        """
        fitting = [one for one in self.front if one.cost(self.cost) <= max_cost and one.score >= min_score]
        if fitting:
            return fitting[0] if min_score > float("-inf") else fitting[-1]
        ends = (("costs least", self.front[0]), ("scores most", self.front[-1]))
        why = "; ".join(f"{trial.name} {what}: {self._said(trial)}" for what, trial in ends)
        fix = "allow more, or add smaller and larger choices to the space"
        raise BudgetUnmet("no architecture of the search fits the budget", why=why, fix=fix)

    def _said(self, trial: Trial) -> str:
        unit = "MACs" if self.cost == "macs" else "ms"
        return f"{trial.cost(self.cost):,.6g} {unit}, {self.metric} {trial.score:.4f}"
