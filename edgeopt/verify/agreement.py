"""How often an artifact chooses the model's class, on as many held-out samples as there is time for."""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeopt.model.choices import Classes, classes
from edgeopt.verify.parts import Array, Outputs

SECONDS = 60.0
"""Of a CPU, for the samples beyond the first few, of the model and of all targets together."""
MODEL_SECONDS = 12.0
"""Of these, for the model's own outputs."""

SHARED = 4.0
"""Seconds that pass count as one of a CPU, where that waits or works for others."""

TIMEOUT_PARTS = 2 * SHARED
"""Of one target's --timeout an artifact has as many seconds for them: half of what may pass is left to all else."""

ByOutput = dict[int, Classes]
"""The class of each row of one sample, by the output that has class scores."""


class Counts:
    """Rows of class scores by output, and how many of them have the model's class. ``samples``: how many were added."""

    def __init__(self) -> None:
        self.samples = 0
        self._rows: dict[int, int] = {}
        self._same: dict[int, int] = {}

    @classmethod
    def of(cls, reference: Outputs, candidate: Outputs) -> "Counts":
        """Those of an artifact's outputs against the model's."""
        found = cls()
        for one, other in zip(reference, candidate, strict=True):
            found.add(chosen(one), other)
        return found

    def add(self, model: Mapping[int, Classes], outputs: Sequence[Array]) -> None:
        """One sample: the model's classes, and the artifact's outputs. Of another shape than scores they are all wrong."""
        for index, rows in model.items():
            own = np.argmax(outputs[index], -1)
            same = int((own == rows).sum()) if own.shape == rows.shape else 0
            self._rows[index] = self._rows.get(index, 0) + len(rows)
            self._same[index] = self._same.get(index, 0) + same
        self.samples += 1

    @property
    def rows(self) -> int:
        """Of the output where fewest have the model's class; 0 without class scores."""
        return self._rows[self._worst()] if self._rows else 0

    def numbers(self, names: tuple[str, ...]) -> tuple[dict[str, float | None], dict[str, str]]:
        """The share of rows with the model's class, of the output where it is least, and which that is: numbers and parts."""
        if not self._rows:
            return {"top1_agreement": None}, {}
        worst = self._worst()
        parts = {"top1_agreement": f"output {names[worst]}"} if len(names) > 1 else {}
        return {"top1_agreement": self._same[worst] / self._rows[worst]}, parts

    def _worst(self) -> int:
        return min(self._rows, key=lambda index: self._same[index] / self._rows[index])


def chosen(outputs: Sequence[Array]) -> ByOutput:
    """The classes of the outputs that have class scores."""
    found = ((index, classes(output)) for index, output in enumerate(outputs))
    return {index: rows for index, rows in found if rows is not None}


class Clock:
    """Seconds of a CPU since it was made: what else the machine does must not decide how many samples are compared."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def seconds(self) -> float:
        """Of all threads of this process."""
        return max(time.process_time() - self._cpu, (time.monotonic() - self._wall) / SHARED)


def steps(count: int, done: int, done_s: float, seconds: float) -> Iterator[int]:
    """Numbers of samples from ``done`` to ``count`` while the next ones can be expected to end within ``seconds``.

    ``done_s``: what the first ``done`` took. Their number doubles, so that small differences in time change nothing.
    """
    clock = Clock()
    while 0 < done < count:
        spent = clock.seconds()
        more = min(done, count - done)
        if spent + (done_s + spent) / done * more > seconds:
            return
        yield from range(done, done + more)
        done += more
