"""What the user's own module gives on held-out inputs and on inputs unlike them, in a file that workers read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.converters.interface import Array
from edgeopt.support.files import writing

Samples = list[tuple[Array, ...]]


@dataclass(slots=True)
class ReferenceOutputs:
    """``outputs`` of the model for ``samples``, and the same for inputs ``unlike`` them: one tuple of arrays per sample."""

    names: tuple[str, ...] = ()
    """Of the outputs."""
    samples: Samples = field(default_factory=list)
    outputs: Samples = field(default_factory=list)
    unlike: Samples = field(default_factory=list)
    unlike_outputs: Samples = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As one .npz without pickles."""
        arrays: dict[str, Any] = {"names": np.array(self.names, dtype=str)}
        for kind in ("samples", "outputs", "unlike", "unlike_outputs"):
            for i, sample in enumerate(getattr(self, kind)):
                arrays |= {f"{kind}/{i}/{j}": array for j, array in enumerate(sample)}
        with writing(path), path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> "ReferenceOutputs":
        """What :meth:`write` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            found = cls(names=tuple(map(str, stored["names"])))
            grouped: dict[tuple[str, int], list[Array]] = {}
            for name in stored.files[1:]:  # in the order they were written
                kind, index, _ = name.split("/")
                grouped.setdefault((kind, int(index)), []).append(stored[name])
        for (kind, _), arrays in grouped.items():
            getattr(found, kind).append(tuple(arrays))
        return found
