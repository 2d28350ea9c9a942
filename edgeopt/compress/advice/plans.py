"""Which techniques in a row are worth trying, from mild to strong, and the mildest that reaches a goal."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from edgeopt.compress.advice.advice import Figures
from edgeopt.compress.advice.architecture import Architecture
from edgeopt.compress.advice.trials import Attempt, Bench, Tried
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.distill.lessons import LOGITS, floating
from edgeopt.errors import CompressionError
from edgeopt.model.signature import call_arguments

ORDER = ("layers", "heads", "channels", "low-rank")
"""Whole blocks go first, then what is inside them, so that importance is judged in the model that stays; factors come last,
since a factorised layer can no longer be made narrower."""
MILD_TO_STRONG = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Shares of a layer's, head's or channel's count: beyond them a smaller network, distilled, keeps more accuracy."""
PROBE = 0.5
GAIN = 0.03
"""Of the multiply-accumulates or the bytes: a technique that takes less is not worth a training run."""
STUDENT = 0.5
"""Width of the student that stronger plans begin with: a quarter of the parameters, which one stage of distillation bridges."""

Excess = Callable[[Figures], float]
"""The largest of a figure's ratios to its budget: up to 1 all are met."""


@dataclass(frozen=True, slots=True)
class Probed:
    """One technique alone at :data:`PROBE`. ``tried`` None: it refused, for ``error``."""

    technique: str
    tried: Tried | None
    error: str = ""
    gain: float = 0.0


def settings_of(technique: str, strength: float) -> dict[str, Any]:
    """The settings in which a technique takes away about ``strength`` of what it works on."""
    if technique == "low-rank":  # the energy that stays; layers whose energy is spread evenly cannot give up more
        return {"rule": "energy", "share": round(1 - strength / 2, 2)}
    return {"amount": strength}


class Plans:
    """The plans for one model. Probes and trials are made when they are needed, each once.

    ``whole``: layers that keep their channels, and why. ``trains``: whether there is training code.
    """

    def __init__(
        self, bench: Bench, architecture: Architecture, before: Figures, whole: Mapping[str, str], trains: bool
    ) -> None:  # fmt: skip
        self._bench, self._architecture, self._before = bench, architecture, before
        self._whole, self._trains = whole, trains
        self._tried: dict[tuple[str, ...], Tried | None] = {}

    @cached_property
    def probes(self) -> dict[str, Probed]:
        """Every technique that could make this kind of model smaller or faster, tried alone."""
        return {name: self._probe(name) for name in ORDER if name not in ("layers", "heads") or self._architecture.attention}

    @cached_property
    def useful(self) -> tuple[str, ...]:
        """Those that gain on the target, in the order in which they are applied."""
        return tuple(name for name in ORDER if name in self.probes and self.probes[name].gain >= GAIN)

    @cached_property
    def pattern(self) -> Probed | None:
        """The N:M pattern that the target's kernels skip zeros of; None where they have none."""
        sparsity = self._bench.profile.sparsity
        if sparsity is None:
            return None
        one = Attempt(technique="nm", settings={"pattern": sparsity.pattern})
        try:
            tried = self._bench.tried((one,))
        except CompressionError as error:
            return Probed("nm", None, error=error.what)
        return Probed("nm", tried, gain=len(tried.records[0].changed))

    @property
    def _last(self) -> tuple[Attempt, ...]:
        """What ends every plan: training mends the pattern that this target's export would else force on the weights."""
        if self.pattern is None or self.pattern.tried is None:
            return ()
        return tuple(Attempt(technique=step.technique, settings=step.settings) for step in self.pattern.tried.steps)

    def mildest(self, excess: Excess) -> Tried | None:
        """The first plan within the budgets: one technique if that will do, then all of them, then with a student first."""
        for ladder in (self._alone, self._together, self._distilled):
            found = self._lowest(ladder(), excess)
            if found is not None:
                return found
        return None

    def nearest(self, excess: Excess) -> Tried | None:
        """Of the plans that were tried, the one nearest to the budgets."""
        tried = [one for one in self._tried.values() if one is not None and one.steps]
        return min(tried, key=lambda one: excess(one.after), default=None)

    def _alone(self) -> list[tuple[Attempt, ...]]:
        """The technique that gains most, at every strength."""
        best = max(self.useful, key=lambda name: self.probes[name].gain, default=None)
        return [(self._attempt(best, strength), *self._last) for strength in MILD_TO_STRONG] if best else []

    def _together(self) -> list[tuple[Attempt, ...]]:
        if len(self.useful) < 2:
            return []
        return [(*(self._attempt(name, strength) for name in self.useful), *self._last) for strength in MILD_TO_STRONG]

    def _distilled(self) -> list[tuple[Attempt, ...]]:
        """A narrower or shallower student, then what still gains; a student with half the layers loses no more of them."""
        student = self.student
        rest = [name for name in self.useful if name != "layers" or student is None or "layers" not in student.settings]
        if student is None:
            return []
        stronger = (
            (student, *(self._attempt(name, strength) for name in rest), *self._last) for strength in MILD_TO_STRONG if rest
        )
        return [(student, *self._last), *stronger]

    @cached_property
    def student(self) -> Attempt | None:
        """The distillation that can make its own student of this model; None where none can, or has data to learn from."""
        if not self._teaches:
            return None
        depth = self.depth
        options: list[dict[str, Any]] = [{"layers": depth}] if depth else []
        attempts = (Attempt(technique="distill", settings=one | self._task) for one in (*options, {"width": STUDENT}))
        return next((one for one in attempts if (tried := self._try((one,))) is not None and tried.steps), None)

    @property
    def no_student(self) -> str:
        """Why no student can be made; "" where one can, or none was tried."""
        if not self._teaches:
            return (
                "a student has nothing to learn from: the model brings no calibration data, and no training code stands by it"
            )
        tried = "student" in self.__dict__  # a cached property: it is not made for this alone
        return "no smaller network can be made of this one: give a student of your own" if tried and not self.student else ""

    @property
    def _teaches(self) -> bool:
        return self._trains or self._bench.context.batches is not None

    @cached_property
    def _task(self) -> dict[str, Any]:
        """What the student imitates, as far as the outputs show it; class scores are the technique's own choice."""
        context = self._bench.context
        with evaluating(self._bench.module):
            args, kwargs = call_arguments(context.example_inputs)
            found = floating(self._bench.module(*args, **kwargs))
        several = [value for value in found.values() if value.ndim]
        first = found.get(LOGITS, several[0])
        if len(several) > 1 and LOGITS not in found:  # which holds classes cannot be told: all are taught
            return {"task": "regression"}
        if first.ndim != 2 or first.shape[1] < 2 or bool((first >= 0).all()):
            return {"task": "regression"}
        length = first.norm(dim=1)
        return {"task": "embedding"} if torch.allclose(length, torch.ones_like(length), atol=1e-3) else {}

    @cached_property
    def _excluded(self) -> tuple[str, ...]:
        """Of the layers that had better stay whole, those that channel pruning would change."""
        if not self._whole:
            return ()
        try:
            (record,) = self._bench.tried((attempt("channels", PROBE),)).records
        except CompressionError:
            return ()
        return tuple(change.layer for change in record.changed if change.layer in self._whole)

    def _attempt(self, technique: str, strength: float) -> Attempt:
        one = attempt(technique, strength)
        excluded = self._excluded if technique == "channels" else ()
        return Attempt(technique=technique, settings=one.settings | {"exclude": excluded}) if excluded else one

    @property
    def depth(self) -> int:
        """Half the blocks with attention; 0 where there are none."""
        return len(self._architecture.attention) // 2

    def _probe(self, name: str) -> Probed:
        try:
            tried = self._bench.tried((self._attempt(name, PROBE),))
        except CompressionError as error:
            return Probed(name, None, error=f"{error.what}: {error.why}" if error.why else error.what)
        self._tried[_key((self._attempt(name, PROBE),))] = tried
        shares = (1 - tried.after.macs / max(self._before.macs, 1), 1 - tried.after.bytes / self._before.bytes)
        return Probed(name, tried, gain=max(shares))

    def _lowest(self, ladder: Sequence[tuple[Attempt, ...]], excess: Excess) -> Tried | None:
        """The lowest rung within the budgets, by bisection: each rung leaves less than the one before."""

        def reaches(attempts: tuple[Attempt, ...]) -> bool:
            tried = self._try(attempts)
            return tried is not None and excess(tried.after) <= 1

        if not ladder or not reaches(ladder[-1]):
            return None
        return self._try(ladder[bisect_left(ladder, True, key=reaches)])

    def _try(self, attempts: tuple[Attempt, ...]) -> Tried | None:
        key = _key(attempts)
        if key not in self._tried:
            try:
                self._tried[key] = self._bench.tried(attempts)
            except CompressionError:
                self._tried[key] = None
        return self._tried[key]


def attempt(technique: str, strength: float) -> Attempt:
    """A technique at a strength."""
    return Attempt(technique=technique, settings=settings_of(technique, strength))


def _key(attempts: tuple[Attempt, ...]) -> tuple[str, ...]:
    return tuple(one.describe() for one in attempts)
