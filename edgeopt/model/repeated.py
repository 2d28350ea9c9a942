"""Whether ``evaluate`` gives the same numbers for the same predictions: only then does a difference come from the artifact.

The predictions of the first call are kept and given again in a second one, so that it costs what the user's own lines cost.
"""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edgeopt.core import TensorSpec
from edgeopt.errors import EvaluationError
from edgeopt.model.choices import Choices
from edgeopt.model.evaluation import Array, Run, digest, evaluate
from edgeopt.model.model import Evaluate

KEPT_BYTES = 256 << 20
"""Predictions that are kept in memory; where there are more, nothing is asked twice."""
OWN_S = 2.0
"""Seconds that the user's own lines may take to be run a second time."""
OTHER_S = 2.0
"""Seconds for predictions of inputs that the first call did not ask for."""
_RELATIVE, _ABSOLUTE = 1e-5, 1e-9
"""Sums in another order differ by less."""


@dataclass(frozen=True, slots=True)
class Change:
    """A number that differs between two calls; None where a call did not give it."""

    name: str
    first: float | None
    second: float | None

    @property
    def size(self) -> float:
        """Infinite where one call did not give it."""
        return math.inf if self.first is None or self.second is None else abs(self.first - self.second)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What ``evaluate`` found. ``changes``: what a second call gave otherwise, the greatest difference first.

    ``other_inputs``: it asked for so many other inputs the second time that it was not heard out.
    """

    found: dict[str, float]
    changes: tuple[Change, ...] = ()
    other_inputs: bool = False
    choices: Choices = field(default_factory=Choices, compare=False)
    """Which class each row got that it asked for the first time."""

    @property
    def steady(self) -> bool:
        """Whether the numbers are the same for the same predictions, as far as that was asked."""
        return not self.changes and not self.other_inputs


def numbers(function: Evaluate, run: Run, specs: tuple[TensorSpec, ...], subject: str) -> Numbers:
    """The numbers of ``function`` for ``run``, which it is asked for twice where that is cheap. Raises EvaluationError."""
    kept, choices = _Predictions(run), Choices()
    start = time.monotonic()
    found = evaluate(choices.watching(function), kept.record, specs, subject)
    own = time.monotonic() - start - kept.seconds - choices.seconds
    if not kept.whole or own > OWN_S:
        return Numbers(found, choices=choices)
    try:
        with _random_states_kept():
            again = evaluate(function, kept.replay, specs, subject)
    except EvaluationError as error:
        if kept.stopped:
            return Numbers(found, other_inputs=True, choices=choices)
        why = ": ".join(filter(None, (error.what, error.why)))
        fix = "let evaluate read its data anew in each call: it is called for the model and for every artifact"
        raise EvaluationError("evaluate cannot be called twice", why=why, fix=fix) from error
    changes = () if kept.stopped else _changes(found, again)
    return Numbers(found, changes, other_inputs=kept.stopped, choices=choices)


class _Predictions:
    """Those of a first call, for a second one. ``seconds``: what computing and keeping them took."""

    def __init__(self, run: Run) -> None:
        self.seconds = 0.0
        self.whole = True
        self.stopped = False
        self._run = run
        self._answers: dict[bytes, tuple[Array, ...]] = {}
        self._bytes = 0
        self._other_seconds = 0.0

    def record(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        start = time.monotonic()
        key = digest(arrays) if self.whole else b""  # before they are anybody else's: the run may change them
        outputs = self._run(arrays)
        if self.whole and key not in self._answers:
            self._keep(key, outputs)
        self.seconds += time.monotonic() - start
        return outputs

    def _keep(self, key: bytes, outputs: tuple[Array, ...]) -> None:
        self._bytes += sum(array.nbytes for array in outputs)
        if self._bytes > KEPT_BYTES:
            self.whole = False
            self._answers.clear()
            return
        self._answers[key] = _copies(outputs)

    def replay(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        known = self._answers.get(digest(arrays))
        if known is not None:
            return _copies(known)
        if self._other_seconds > OTHER_S:
            self.stopped = True
            raise EvaluationError("evaluate asked for other inputs the second time", fix="fix its random seed")
        start = time.monotonic()
        outputs = self._run(arrays)
        self._other_seconds += time.monotonic() - start
        return outputs


def _copies(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The user's function may write into what it is given."""
    return tuple(np.array(array) for array in arrays)


def _changes(found: dict[str, float], again: dict[str, float]) -> tuple[Change, ...]:
    changes = [Change(name, found.get(name), again.get(name)) for name in dict.fromkeys((*found, *again))]
    differing = [one for one in changes if not _same(one)]
    return tuple(sorted(differing, key=lambda change: change.size, reverse=True))


def _same(change: Change) -> bool:
    one, two = change.first, change.second
    return one is not None and two is not None and math.isclose(one, two, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whether there was time for a second call must not decide which random numbers calibration draws after it."""
    import torch  # whoever asks for a digest alone needs none

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
