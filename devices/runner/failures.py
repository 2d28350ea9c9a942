"""What ends a run before its time, as the ``error`` event says it."""

from __future__ import annotations

import errno
import re

KINDS = (
    "load", "run", "memory", "disk_full", "read_only", "missing_runtime", "no_accelerator", "bad_job", "fallback", "delegate",
)  # fmt: skip
_DISK = {errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.EROFS: "read_only"}
_MEMORY = re.compile(r"bad_?alloc|out of memory|can't allocate memory|failed to allocate|not enough memory", re.IGNORECASE)


class Failure(Exception):
    """A failure of one of ``KINDS``."""

    def __init__(self, kind: str, message: str) -> None:
        assert kind in KINDS
        self.kind = kind
        super().__init__(message)


def failure_from(error: BaseException, kind: str) -> Failure:
    """``error`` as a failure of ``kind``, or of another one where the system says that the disk takes no more, or a runtime in
    its own words that memory ran out."""
    if isinstance(error, Failure):
        return error
    message = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or _MEMORY.search(message):
        kind = "memory"
    elif isinstance(error, OSError):
        kind = _DISK.get(error.errno or 0, kind)
    return Failure(kind, f"{type(error).__name__}: {message}")
