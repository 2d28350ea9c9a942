"""Times of layers on one device, as ``edgeopt bench --layers`` writes them: for a search, and for the costs of an export."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from edgeopt.core import data_class, from_json, to_json
from edgeopt.errors import CompressionError
from edgeopt.support.files import write_atomic
from edgeopt.support.untrusted import RECORD_BYTES, read

_Ms = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


@data_class
class LayerTime:
    """One measured layer; texts as in :mod:`edgeopt.capture.layer_calls`.

    ``ms``: as the target's artifact. ``float_ms``: as its fp32 twin in the same format; None where that was not measured, or
    where the layer alone is in floats for the target too.
    """

    call: str
    form: str
    work: Annotated[int, Field(ge=0)]
    ms: _Ms
    float_ms: _Ms | None = None


@data_class
class LatencyTable:
    """Times of layers on one device with one runtime, ``target/format``.

    ``overhead_ms``: of a call that computes next to nothing.
    """

    device: str
    runtime: str
    threads: Annotated[int, Field(ge=1)]
    overhead_ms: _Ms | None = None
    layers: tuple[LayerTime, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Raises CompressionError where ``path`` holds no table."""
        try:
            return from_json(cls, read(path, RECORD_BYTES))
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else f"{error.error_count()} values do not fit"
            raise CompressionError(f"{path} is no latency table", why=why or "", fix="measure it again") from error

    def save(self, path: Path) -> None:
        """As JSON, for :meth:`load`."""
        write_atomic(path, to_json(self))
