"""The planner: which techniques, in which order and by how much, bring a model within its budgets on a target.

Nothing is looked up: every technique that could help is applied to a copy, untrained, and its parameters, multiply-accumulates
and artifact bytes are computed. What gains nothing on the target is refused with that figure. Of the plans that meet the
budgets the mildest is advised. What it costs in accuracy shows only in training: ``edgeopt compress`` judges each step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn
from torch.export import ExportedProgram

from edgeopt.capture import Captured, capture
from edgeopt.capture.operator_kinds import WEIGHTED
from edgeopt.compress.advice import architecture
from edgeopt.compress.advice.advice import Advice, AdvisedStep, Budgets, Figures
from edgeopt.compress.advice.architecture import Architecture
from edgeopt.compress.advice.footprint import Footprint, has_integers
from edgeopt.compress.advice.plans import Excess, Plans
from edgeopt.compress.advice.refusals import refusals
from edgeopt.compress.advice.sensitive import too_sensitive
from edgeopt.compress.advice.sensitivity import Sensitivity
from edgeopt.compress.advice.trials import Bench, Tried
from edgeopt.core import Plan
from edgeopt.errors import BudgetUnmet, CompressionError, ModelError
from edgeopt.model.model import Model
from edgeopt.targets.schema import TargetProfile

LatencyMs = Callable[[nn.Module], float]
"""Measures a module's latency in milliseconds, as an artifact of the target if that is possible."""
STORING = WEIGHTED | {"embedding"}
"""Kinds of operators that stored weights are for."""
DEFAULT_SHARE = 0.5
"""Of the multiply-accumulates: the goal where no size or latency is asked for."""
OWN_STUDENT = 'distil into a smaller network of your own (technique = "distill", student = "file.py:name")'
MEASUREMENTS = 3
"""Of candidates, where a latency is asked for: each takes an export."""


def advise(
    model: Model,
    profile: TargetProfile,
    budgets: Budgets | None = None,
    *,
    latency_ms: LatencyMs | None = None,
    plan: Plan | None = None,
    captured: Captured | None = None,
    sensitivity: Sensitivity | None = None,
    trains: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Advice:
    """What meets ``budgets`` for ``model`` on ``profile``.

    ``plan``: the target's plan for the model, from which the layers that stay in float are known; without it every layer
    counts as integer for which the target has kernels. ``captured``: ``model``'s, where it is known. ``latency_ms`` measures
    the model and the candidates that are expected to be fast enough; between them, latency is taken to fall with the multiply-
    accumulates. ``sensitivity``: of a scan; channel pruning leaves alone what loses too much by it. ``trains``: whether there
    is training code; a student can also learn from the model's calibration data. ``model`` is not changed.

    Raises BudgetUnmet with the nearest plan where nothing meets the budgets, CompressionError where the target makes no
    artifact of the model, or a latency is asked for and cannot be measured, ModelError for a program instead of a module, and
    what capturing the model raises.
    """
    budgets = budgets or Budgets()
    if not isinstance(model.module, nn.Module):
        raise ModelError("techniques change layers, and this is an exported program", fix="give the nn.Module itself")
    if budgets.max_latency_ms is not None and latency_ms is None:
        raise CompressionError("a latency is asked for, but nothing measures it", fix="give latency_ms, a function of a module")
    tell("looking at the model")
    program = (captured or capture(model)).program
    kept = frozenset(one.layer for one in (plan.kept_float if plan else ()) if one.operator in STORING)
    profile = _usable(profile, program, kept, model.name)
    footprint = Footprint(model.module, program, profile, kept)
    whole = too_sensitive(sensitivity, budgets.max_drop) if sensitivity else {}
    search = _Search(model, model.module, profile, budgets, latency_ms, program, footprint, whole, trains, tell)
    found = search.found()
    return Advice(
        model=model.name,
        target=profile.name,
        scheme=profile.schemes[0].describe(),
        budgets=budgets,
        architecture=search.architecture,
        before=search.before,
        steps=tuple(map(search.explained, found.steps)) if found else (),
        refused=() if search.met else refusals(search.bench, search.architecture, search.plans, found),
        notes=search.notes(found),
        sensitivity=sensitivity,
    )


def _usable(profile: TargetProfile, program: ExportedProgram, kept: frozenset[str], name: str) -> TargetProfile:
    """``profile`` with the scheme first that its export will come to: where no layer can be integer, the next is taken."""
    for position, scheme in enumerate(profile.schemes):
        candidate = replace(profile, schemes=profile.schemes[position:])
        if not scheme.integer or has_integers(program, candidate, kept):
            return candidate
    why = "no layer of it can be computed in integers there"
    fix = "ask for a floating-point target, such as portable-fp32"
    raise CompressionError(f"{profile.name} makes no artifact of {name}", why=why, fix=fix)


@dataclass(frozen=True)
class _Search:
    """One question to the planner."""

    model: Model
    module: nn.Module
    profile: TargetProfile
    budgets: Budgets
    latency_ms: LatencyMs | None
    program: ExportedProgram
    footprint: Footprint
    whole: Mapping[str, str]
    trains: bool
    tell: Callable[[str], None]

    @cached_property
    def bench(self) -> Bench:
        return Bench(self.model, self.module, self.profile, self.before, self.footprint, self.tell)

    @cached_property
    def plans(self) -> Plans:
        return Plans(self.bench, self.architecture, self.before, self.whole, self.trains)

    @cached_property
    def architecture(self) -> Architecture:
        return architecture.inspect(self.module, self.model.example_inputs, self.program)

    @cached_property
    def before(self) -> Figures:
        found = self.architecture
        figures = Figures(parameters=found.parameters, macs=found.macs, bytes=self.footprint.bytes(self.module))
        return figures if self.budgets.max_latency_ms is None else self._timed(figures, self.module)

    @property
    def met(self) -> bool:
        """Whether the model is within the budgets as it is."""
        return self._asked and self._excess(1.0)(self.before) <= 1

    def found(self) -> Tried | None:
        """The mildest plan that meets the budgets; None where the model already does. Raises BudgetUnmet.

        Where nothing was asked for, the nearest to the goal will do; None where no technique gains anything.
        """
        if self.met:
            return None
        if not self._asked:
            goal = self._excess(1.0)
            return self.plans.mildest(goal) or self.plans.nearest(goal)
        slack = 1.0
        for _ in range(MEASUREMENTS):
            tried = self.plans.mildest(self._excess(slack))
            if tried is None:
                raise self._unmet(self._measured(self.plans.nearest(self._excess(slack))))
            if self.budgets.max_latency_ms is None:
                return tried
            tried = self._with_latency(tried)
            measured = tried.after.latency_ms
            assert measured is not None
            if measured <= self.budgets.max_latency_ms:
                return tried
            slack *= self.budgets.max_latency_ms / measured
        raise self._unmet(tried)

    @property
    def _asked(self) -> bool:
        return self.budgets.max_bytes is not None or self.budgets.max_latency_ms is not None

    def _excess(self, slack: float) -> Excess:
        """How far figures are above the budgets; below 1 ``slack`` asks for more than MACs alone promise."""
        share = 1.0 if self._asked else DEFAULT_SHARE
        if self.budgets.max_latency_ms is not None and self.before.latency_ms:
            share = min(1.0, self.budgets.max_latency_ms / self.before.latency_ms * slack)
        most_macs, most_bytes = self.before.macs * share, self.budgets.max_bytes

        def excess(figures: Figures) -> float:
            return max(figures.macs / max(most_macs, 1), figures.bytes / most_bytes if most_bytes else 0.0)

        return excess

    def explained(self, step: AdvisedStep) -> AdvisedStep:
        """``step``, with why layers are left whole."""
        why = "; ".join(self.whole[layer] for layer in step.settings.get("exclude", ()))
        return replace(step, reason=f"{step.reason}; left whole: {why}") if why else step

    def _timed(self, figures: Figures, module: nn.Module) -> Figures:
        assert self.latency_ms is not None
        self.tell("measuring latency")
        return replace(figures, latency_ms=self.latency_ms(module))

    def _measured(self, tried: Tried | None) -> Tried | None:
        return self._with_latency(tried) if tried and self.budgets.max_latency_ms is not None else tried

    def _with_latency(self, tried: Tried) -> Tried:
        *first, last = tried.steps
        timed: AdvisedStep = replace(last, after=self._timed(last.after, tried.module))
        return replace(tried, steps=(*first, timed))

    def _unmet(self, nearest: Tried | None) -> BudgetUnmet:
        wanted = [f"{self.budgets.max_bytes:,} bytes"] if self.budgets.max_bytes is not None else []
        wanted += [f"{self.budgets.max_latency_ms:g} ms"] if self.budgets.max_latency_ms is not None else []
        what = f"no technique brings {self.model.name} to {' and '.join(wanted) or 'half its MACs'} on {self.profile.name}"
        figures = nearest.after if nearest else self.before
        steps = ", then ".join(step.describe() for step in nearest.steps) if nearest else "the export alone"
        reached = f"{figures.bytes:,} bytes, {figures.macs:,} of {self.before.macs:,} MACs"
        reached += f", {figures.latency_ms:.3g} ms" if figures.latency_ms is not None else ""
        why = f"the nearest is {steps}: {reached}"
        fix = f"raise the budget{', scan less' if self.whole else ''}, or {OWN_STUDENT}"
        return BudgetUnmet(what, why=why, fix=fix)

    def notes(self, found: Tried | None) -> tuple[str, ...]:
        """What concerns the whole."""
        notes = []
        if self.met:
            notes.append("the export alone meets the budgets: nothing has to be compressed")
        elif found is None:
            notes.append(f"no technique gains on this model: {OWN_STUDENT}")
        elif not self._asked:
            notes.append(f"no size or latency is asked for: the goal is {DEFAULT_SHARE:.0%} of the MACs")
            if self._excess(1.0)(found.after) > 1:
                notes.append(f"this is the nearest to it; for less, {OWN_STUDENT}")
        embedded = self.architecture.share("embedding")
        if embedded >= architecture.SUBSTANTIAL:
            notes.append(
                f"{embedded:.0%} of the parameters are embeddings: no technique here shrinks them, a smaller vocabulary does"
            )
        if found and self.budgets.max_latency_ms is not None:
            notes.append("latency is measured before and after; in between it was taken to fall with the multiply-accumulates")
        if found and not self.trains:
            notes.append("no training code stands beside the model: what the steps cost in accuracy is not won back")
        if found:
            used = {step.technique for step in found.steps}
            spare = [self.plans.probes[name].tried for name in self.plans.useful if name not in used]
            alone = [one.steps[0] for one in spare if one]
            notes += [f"not needed, but it gains too: {step.describe()} alone {step.reason}" for step in alone]
            notes.append("accuracy is not computed, since nothing was trained: edgeopt compress judges it after each step")
        return tuple(notes)
