"""What the user's code must leave as it was, for the program to go on: its streams, where modules are, what warnings are."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import NoReturn

_OUTPUTS = (1, 2)


class Unfailing(TextIOWrapper):
    """For messages and logs: where the disk is full or nobody listens, what was asked for goes on without them."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
            super().flush()
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


@contextmanager
def kept() -> Iterator[None]:
    """Inside, the user's code runs; then standard output and error, and the entries of ``sys.path``, are as they were.

    What it adds to ``sys.path`` stays; that warnings are errors does not: libraries that edgeopt calls later would fail.
    ``os._exit`` raises SystemExit inside, so that no program ends with the exit code 0 and nothing made; in a process that the
    code has forked it is what it was.
    """
    streams, path, filters = (sys.stdout, sys.stderr), list(sys.path), list(warnings.filters)
    copies = _copies()
    _inside.enter()
    try:
        yield
    finally:
        _inside.leave()
        warnings.filters[:] = [one for one in warnings.filters if one[0] != "error" or one in filters]  # type: ignore[index]
        sys.stdout, sys.stderr = streams
        if any(entry not in sys.path for entry in path):
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        _put_back(copies)


def end_process(status: int) -> NoReturn:
    """Ends the program by force, also while a thread is still in the user's code."""
    _inside.end(status)


class _Inside:
    """How many blocks of :func:`kept` are entered, in all threads: the first and the last of them change ``os._exit``."""

    def __init__(self) -> None:
        self._depth, self._lock, self._exit = 0, threading.Lock(), os._exit

    def enter(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._exit, self._process = os._exit, os.getpid()
                os._exit = self._raise

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                os._exit = self._exit

    def end(self, status: int) -> NoReturn:
        """What ``os._exit`` was."""
        self._exit(status)

    def _raise(self, status: int) -> NoReturn:
        if os.getpid() != self._process:
            self._exit(status)
        raise SystemExit(f"os._exit({status})")


_inside = _Inside()


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
