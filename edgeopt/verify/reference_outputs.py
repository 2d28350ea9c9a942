"""What the user's own module gives on held-out inputs and on inputs unlike them, in a file that workers read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.converters.interface import Array
from edgeopt.support.files import writing
from edgeopt.verify.agreement import ByOutput

Samples = list[tuple[Array, ...]]
_WHOLE = ("samples", "outputs", "unlike", "unlike_outputs")
_FURTHER, _CLASSES = "further", "classes"


@dataclass(slots=True)
class ReferenceOutputs:
    """``outputs`` of the model for ``samples``, and the same for inputs ``unlike`` them: one tuple of arrays per sample."""

    names: tuple[str, ...] = ()
    """Of the outputs."""
    samples: Samples = field(default_factory=list)
    outputs: Samples = field(default_factory=list)
    unlike: Samples = field(default_factory=list)
    unlike_outputs: Samples = field(default_factory=list)
    further: Samples = field(default_factory=list)
    """Held-out samples that only classes are compared on. They may be many: :meth:`read` leaves them in the file."""
    classes: list[ByOutput] = field(default_factory=list)
    """The model's classes for each of ``further``."""

    def write(self, path: Path) -> None:
        """As one .npz without pickles."""
        arrays: dict[str, Any] = {"names": np.array(self.names, dtype=str)}
        for kind in (*_WHOLE, _FURTHER):
            for i, sample in enumerate(getattr(self, kind)):
                arrays |= {f"{kind}/{i}/{j}": array for j, array in enumerate(sample)}
        for i, chosen in enumerate(self.classes):
            arrays |= {f"{_CLASSES}/{i}/{j}": rows for j, rows in chosen.items()}
        with writing(path), path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> "ReferenceOutputs":
        """What :meth:`write` wrote, but for further samples."""
        with np.load(path, allow_pickle=False) as stored:
            found = cls(names=tuple(map(str, stored["names"])))
            grouped: dict[tuple[str, int], list[Array]] = {}
            for name in stored.files[1:]:  # in the order they were written
                kind, index, _ = name.split("/")
                if kind in _WHOLE:
                    grouped.setdefault((kind, int(index)), []).append(stored[name])
        for (kind, _), arrays in grouped.items():
            getattr(found, kind).append(tuple(arrays))
        return found


class Further:
    """The further samples of a file, each read when it is asked for."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self._names: dict[tuple[str, int], list[str]] = {}
        for name in stored.files[1:]:
            kind, index, _ = name.split("/")
            if kind in (_FURTHER, _CLASSES):
                self._names.setdefault((kind, int(index)), []).append(name)
        self.count = sum(kind == _FURTHER for kind, _ in self._names)

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator["Further"]:
        """Those of what :meth:`ReferenceOutputs.write` wrote to ``path``."""
        with np.load(path, allow_pickle=False) as stored:
            yield cls(stored)

    def __getitem__(self, index: int) -> tuple[tuple[Array, ...], ByOutput]:
        """The sample ``index``, and the model's classes for it."""
        sample = tuple(self._stored[name] for name in self._names[_FURTHER, index])
        return sample, {int(name.split("/")[2]): self._stored[name] for name in self._names[_CLASSES, index]}
