"""What the user's code must leave as it was, for the program to go on and be heard: its streams, and where modules are."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OUTPUTS = (1, 2)


@contextmanager
def kept() -> Iterator[None]:
    """Inside, the user's code runs; then standard output and error, and the entries of ``sys.path``, are as they were.

    What it adds to ``sys.path`` stays.
    """
    streams, path = (sys.stdout, sys.stderr), list(sys.path)
    copies = _copies()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if any(entry not in sys.path for entry in path):
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        _put_back(copies)


def _copies() -> dict[int, int]:
    """A copy of each output that is open."""
    found = {}
    for number in _OUTPUTS:
        with suppress(OSError):
            found[number] = os.dup(number)
    return found


def _put_back(copies: dict[int, int]) -> None:
    """Outputs that were closed, or lead elsewhere now. Copies that were closed too cannot help."""
    for number, copy in copies.items():
        with suppress(OSError):
            if not _same_file(number, copy):
                os.dup2(copy, number)
            os.close(copy)


def _same_file(number: int, copy: int) -> bool:
    try:
        now = os.fstat(number)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(copy))
