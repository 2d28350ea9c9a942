"""What this computer computes for all devices of a benchmark, once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeopt.bench.inputs import Array


@dataclass(slots=True)
class Computed:
    """Outputs by artifact, made when first asked for; who asks meanwhile waits instead of computing them too."""

    _outputs: dict[str, tuple[Array, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, sha256: str, make: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
        """The outputs of the artifact with this digest; what ``make`` raises passes through, and is tried again next time."""
        with self._lock:
            if sha256 not in self._outputs:
                self._outputs[sha256] = make()
            return self._outputs[sha256]

    def elements(self, sha256: str) -> tuple[int, ...] | None:
        """How many elements each of these outputs has; None where they have not been computed yet."""
        outputs = self._outputs.get(sha256)
        return None if outputs is None else tuple(array.size for array in outputs)
