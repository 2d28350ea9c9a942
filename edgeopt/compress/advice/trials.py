"""Techniques tried on copies without training: what they would leave of a model's size and work on a target."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn

from edgeopt.compress.advice.advice import AdvisedStep, Figures, described
from edgeopt.compress.advice.footprint import Footprint
from edgeopt.compress.common import measures
from edgeopt.compress.distill.students import narrower, shallower
from edgeopt.compress.technique import Context, Record
from edgeopt.compress.techniques import technique
from edgeopt.core import data_class
from edgeopt.model.model import Model
from edgeopt.targets.schema import TargetProfile

BATCHES = 4
"""So many batches of the user's data tell an importance well enough to compute a size."""


@data_class
class Attempt:
    """A technique's name and settings, as a recipe has them."""

    technique: str
    settings: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """``channels (amount 0.5)``."""
        return described(self.technique, self.settings)


@dataclass(frozen=True, slots=True)
class Tried:
    """What attempts in a row came to; ``steps``: those that changed anything. ``module`` is untrained."""

    module: nn.Module
    before: Figures
    steps: tuple[AdvisedStep, ...]
    records: tuple[Record, ...]

    @property
    def after(self) -> Figures:
        """The figures after the last attempt."""
        return self.steps[-1].after if self.steps else self.before


class Bench:
    """Tries techniques on copies of ``module``, which is ``model``'s, for ``profile``.

    ``before``: the module's own figures. ``footprint``: that of its artifact. ``tell``: progress, in a line.
    """

    def __init__(
        self, model: Model, module: nn.Module, profile: TargetProfile, before: Figures, footprint: Footprint,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.module, self.profile, self.before, self.tell = module, profile, before, tell
        self._footprint = footprint
        data = model.calibration() if callable(model.calibration) else model.calibration
        batches = None if data is None else tuple(islice(data, BATCHES))
        self.context = Context(example_inputs=model.example_inputs, batches=batches, profile=profile)

    def figures(self, module: nn.Module) -> Figures:
        """Parameters, MACs and expected bytes; latency is measured elsewhere."""
        return Figures(
            parameters=measures.parameters(module),
            macs=measures.macs(module, self.context.example_inputs),
            bytes=self._footprint.bytes(module),
        )

    def tried(self, attempts: tuple[Attempt, ...]) -> Tried:
        """All ``attempts``, one after the other. Raises CompressionError where a technique does."""
        self.tell("trying " + ", ".join(attempt.describe() for attempt in attempts))
        module, before = self.module, self.before
        steps: list[AdvisedStep] = []
        records: list[Record] = []
        for attempt in attempts:
            module, record = self._applied(attempt, module)
            records.append(record)
            if record.changed:
                after = self.figures(module)
                reason = _patterned(record, self.profile) if attempt.technique == "nm" else _gained(record, before, after)
                steps.append(AdvisedStep(technique=attempt.technique, settings=attempt.settings, after=after, reason=reason))
                before = after
        return Tried(module, self.before, tuple(steps), tuple(records))

    def _applied(self, attempt: Attempt, module: nn.Module) -> tuple[nn.Module, Record]:
        if attempt.technique == "distill":  # its student, untrained: what it will weigh does not depend on what it learns
            settings, example = attempt.settings, self.context.example_inputs
            if "width" in settings:
                return narrower(module, settings["width"], example)
            return shallower(module, settings["layers"], example)
        kind: Any = technique(attempt.technique)
        done = kind(**attempt.settings).apply(module, self.context)
        return done.module, done.record


def left_because(record: Record) -> str:
    """Why most layers were left: ``5 of 7 layers left, mostly because ...``; the record's first note where none was."""
    left = [layer for layer in record.layers if layer.action == "left"]
    if not left:
        return record.notes[0] if record.notes else ""
    reasons = Counter(layer.reason for layer in left)
    mostly = ", mostly because" if len(reasons) > 1 else ":"
    return f"{len(left)} of {len(record.layers)} layers left{mostly} {reasons.most_common(1)[0][0]}"


def _patterned(record: Record, profile: TargetProfile) -> str:
    """The work is counted as it was: how much faster zeros in a pattern are is the hardware's affair."""
    layers = f"{len(record.changed)} of {len(record.layers)} layers"
    return f"{layers} get zeros that {profile.runtime} can skip: at most half of their work"


def _gained(record: Record, before: Figures, after: Figures) -> str:
    shares = {
        "MACs": (before.macs, after.macs),
        "parameters": (before.parameters, after.parameters),
        "bytes": (before.bytes, after.bytes),
    }
    fell = ", ".join(f"{1 - new / old:.0%} of the {name}" for name, (old, new) in shares.items() if old)
    return f"takes away {fell}; {len(record.changed)} of {len(record.layers)} layers change"
