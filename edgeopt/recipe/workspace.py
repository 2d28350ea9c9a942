"""The folder of a recipe's run: what was done stays, so that an interrupted run goes on where it was.

DIR/outcome.json              everything, as plain data
DIR/accuracy.svg              accuracy against size and latency, step by step
DIR/model.pt2                 the module that was kept, as an exported program: `edgeopt export DIR/model.pt2`
DIR/bundle/                   its artifacts, where the recipe has [export]
DIR/steps/2-channels/         what a step left: module.pt, step.json, the target's bundle, checkpoints of its training;
                              compressed.json before it was measured; latency/, what was tried for a latency goal
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from edgeopt.compress.common import store
from edgeopt.compress.technique import Keep, Record
from edgeopt.core import data_class, from_json, to_json
from edgeopt.errors import EdgeoptError, OutputError
from edgeopt.recipe.outcome import Goal, StepOutcome, Worth
from edgeopt.support.files import make_folder, write_atomic
from edgeopt.support.untrusted import RECORD_BYTES, read

_OURS = "edgeopt.compress."
STEPS, FIRST = "steps", "0-original"
MODULE, STEP, ORIGINAL, COMPRESSED = "module.pt", "step.json", "original.json", "compressed.json"


@data_class
class Remembered:
    """A finished step; or, with ``record`` instead of ``outcome``, one that is compressed and trained but not yet measured.

    ``key`` covers all that led to it; ``keep`` names the pattern that later training must not undo.
    """

    key: str
    outcome: StepOutcome | None = None
    measured: Worth | None = None
    record: Record | None = None
    goal: Goal | None = None
    keep: str = ""


def refuse_foreign(folder: Path) -> None:
    """Raises OutputError where ``folder`` holds what a run would replace, and no run has written it: a recipe may name any."""
    if (folder / STEPS / FIRST).is_dir():
        return
    for name in (STEPS, "outcome.json", "accuracy.svg", "model.pt2"):
        if os.path.lexists(folder / name):
            why = f"it holds {name!r}, which no run of a recipe wrote"
            raise OutputError(f"{folder} is not written to", why=why, fix="choose another folder with --out")


@dataclass(slots=True)
class Workspace:
    """``key`` of the whole start, or None where it cannot be told whether something changed: then nothing is resumed.

    ``like``: the user's modules; what a step left may consist of what these consist of.
    """

    folder: Path
    key: str | None
    like: nn.Module
    _keys: list[str] = field(default_factory=list)

    def step_folder(self, number: int, technique: str) -> Path:
        """Where a step leaves its files; made where missing."""
        return make_folder(self.folder / STEPS / f"{number}-{technique}")

    def advance(self, *facts: str) -> None:
        """Takes what the next step consists of into the key."""
        self._keys.append(hashlib.sha256("\0".join((*self._keys[-1:], *facts)).encode()).hexdigest())

    @property
    def current(self) -> str | None:
        """The key of the step that is at work."""
        return f"{self.key}-{self._keys[-1] if self._keys else ''}" if self.key else None

    def recall(self, folder: Path, name: str = STEP) -> Remembered | None:
        """What is known of the current step; None where it has to be done."""
        try:
            found = from_json(Remembered, read(folder / name, RECORD_BYTES))
        except (OSError, ValidationError):
            return None
        return found if self.current is not None and found.key == self.current else None

    def module_of(self, folder: Path) -> nn.Module | None:
        """The module that a step left; None where it cannot be read: then the step is done again."""
        try:
            return store.load(folder / MODULE, like=self.like)
        except EdgeoptError:
            return None

    def remember(self, folder: Path, remembered: Remembered, module: nn.Module | None = None, name: str = STEP) -> None:
        """Writes a finished step; the module first, so that the step counts only when all of it is there."""
        if module is not None:
            store.save(module, folder / MODULE)
        write_atomic(folder / name, to_json(remembered))


def name_of(keep: Keep | None) -> str | None:
    """How a pattern is written down: a function of edgeopt.compress and what it was bound to, as JSON.

    "" for none; None for one that cannot be written down: its step is done again in the next run.
    """
    if keep is None:
        return ""
    function = keep.func if isinstance(keep, partial) else keep
    bound: dict[str, Any] = dict(keep.keywords) if isinstance(keep, partial) and not keep.args else {}
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module.startswith(_OURS) or not name.isidentifier() or (isinstance(keep, partial) and keep.args):
        return None
    try:
        return json.dumps([module, name, bound])
    except TypeError:
        return None


def keep_of(text: str) -> Keep | None:
    """The pattern behind :func:`name_of`'s text; None where there is none."""
    if not text:
        return None
    module, name, bound = json.loads(text)
    if not module.startswith(_OURS) or not name.isidentifier():
        return None
    function: Keep = getattr(import_module(module), name)
    # what was a tuple before it became JSON is one again
    return partial(function, **{key: tuple(value) if isinstance(value, list) else value for key, value in bound.items()})
