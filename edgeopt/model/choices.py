"""Which class each row got that ``evaluate`` asked for: the same rows of model and artifact tell how sure a loss is."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.model.evaluation import Array, digest
from edgeopt.model.model import Evaluate

Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Paired:
    """``rows`` that ``evaluate`` asked for, the same of model and artifact; ``differing`` of them got another class."""

    rows: int
    differing: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What ``evaluate`` found for an artifact. ``paired``: None where it is not known which rows the numbers are of."""

    numbers: dict[str, float] = field(default_factory=dict)
    paired: Paired | None = None


def classes(scores: Array) -> Classes | None:
    """The greatest column of each row of class scores [rows, classes], floats; None where an output is none."""
    value = np.asarray(scores)
    if value.ndim != 2 or value.shape[0] < 1 or value.shape[1] < 2 or not np.issubdtype(value.dtype, np.floating):
        return None
    return np.asarray(np.argmax(value, -1), np.int64)


class Choices:
    """The classes by what was asked for: the same inputs asked for twice are one. ``seconds``: what noting them took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._by_inputs: dict[bytes, Classes] = {}
        self._none = False

    @property
    def rows(self) -> int:
        """How many rows got a class."""
        return sum(len(rows) for rows in self._by_inputs.values())

    def watching(self, function: Evaluate) -> Evaluate:
        """``function``, whose predictions are noted here."""

        def watched(predict: Callable[..., tuple[Array, ...]]) -> dict[str, float]:
            def seen(*arrays: Any) -> tuple[Array, ...]:
                key = self._key(arrays)  # before the run, which may change them
                outputs = predict(*arrays)
                self._note(key, outputs)
                return outputs

            return function(seen)

        return watched

    def paired(self, artifact: "Choices") -> Paired | None:
        """With those of an artifact, where both were asked for the same rows, and these have class scores."""
        if not self._by_inputs or self._by_inputs.keys() != artifact._by_inputs.keys():
            return None
        pairs = [(one, artifact._by_inputs[key]) for key, one in self._by_inputs.items()]
        if any(one.shape != other.shape for one, other in pairs):
            return None
        return Paired(self.rows, sum(int((one != other).any(axis=1).sum()) for one, other in pairs))

    def _key(self, arrays: tuple[Any, ...]) -> bytes:
        """Empty where these have no digest: ``predict`` says what is wrong with them."""
        if self._none:
            return b""
        start, key = time.monotonic(), b""
        with suppress(Exception):
            key = digest(tuple(np.asarray(one.detach().cpu() if hasattr(one, "detach") else one) for one in arrays))
        self.seconds += time.monotonic() - start
        return key

    def _note(self, key: bytes, outputs: tuple[Array, ...]) -> None:
        """An output that has no classes cannot tell anything; of several that have, a row differs where one of them does."""
        start = time.monotonic()
        found = [chosen for chosen in map(classes, outputs) if chosen is not None]
        if not key or not found or len({len(chosen) for chosen in found}) > 1:
            self._none = True
            self._by_inputs.clear()
        if not self._none:
            self._by_inputs[key] = np.stack(found, axis=1)
        self.seconds += time.monotonic() - start
