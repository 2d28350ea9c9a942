"""A step's latency goal: how much its technique has to take away, found on the recipe's device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from edgeopt.compress.search.latency_goal import AmountTrial, within
from edgeopt.compress.technique import Context, Technique
from edgeopt.core import data_class, from_json, to_json
from edgeopt.errors import TargetFailed
from edgeopt.recipe.outcome import Goal, Worth
from edgeopt.recipe.workload import Workload, digest
from edgeopt.support.files import make_folder, write_atomic
from edgeopt.support.untrusted import RECORD_BYTES, read


def reached(
    workload: Workload, technique: Technique, share: float, module: nn.Module, context: Context, original: Worth,
    times: "Times", tell: Callable[[AmountTrial], None],
) -> tuple[Technique, Goal]:  # fmt: skip
    """``technique`` with the amount that brings the latency to ``share`` of ``original``'s, and how it was found.

    Raises TargetFailed where the original has no latency, BudgetUnmet where the goal is out of reach.
    """
    before = original.ms_of(workload.recipe.target)
    if before is None:
        reasons = "; ".join(made.reason for made in original.artifacts if made.target == workload.recipe.target and made.reason)
        fix = "name another target or device"
        raise TargetFailed(f"the original has no latency as {workload.recipe.target} to judge by", why=reasons, fix=fix)
    times.put(workload.module, before)  # an amount that takes nothing away takes no time away either
    chosen = within(technique, share * before, module, context, times, tell)
    return chosen.technique, Goal(
        share=share, original_ms=before, ms=share * before, amount=chosen.amount, trials=chosen.trials
    )


@data_class
class _Kept:
    """``key``: of the step that the times are for."""

    key: str
    ms: dict[str, float]


@dataclass(slots=True)
class Times:
    """Latencies of modules, each measured once; kept in ``path``, so that after a lost link the search goes on where it was.

    ``key`` None: nothing is taken from an earlier run.
    """

    path: Path
    key: str | None
    time: Callable[[nn.Module], float]
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            kept = from_json(_Kept, read(self.path, RECORD_BYTES))
        except (OSError, ValidationError):
            return
        if kept.key == self.key:
            self._known = dict(kept.ms)

    def __call__(self, module: nn.Module) -> float:
        """Milliseconds; a module with the same weights is the same."""
        name = digest(module)
        if name not in self._known:
            self.put(module, self.time(module))
        return self._known[name]

    def put(self, module: nn.Module, ms: float) -> None:
        """The time of ``module``, measured elsewhere."""
        self._known[digest(module)] = ms
        if self.key is not None:
            make_folder(self.path.parent)
            write_atomic(self.path, to_json(_Kept(key=self.key, ms=self._known)))
