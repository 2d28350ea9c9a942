"""Ctrl-C, SIGTERM and the end of the terminal: what is open is cleared, and the exit code is the signal's.

A signal raises an exception only inside :func:`interruptible`, where a command works: what it has opened is closed on the way
out. Elsewhere nothing has begun, or all has ended, and the process ends at once. This module imports next to nothing: until it
is here, Python ends with a traceback.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_end_process = os._exit


class _State:
    """``sent``: the last signal that came inside, 0 before any: libraries may have swallowed its exception."""

    depth = 0
    sent = 0


def heed() -> None:
    """Handles the signals, but for those that are to be ignored (nohup)."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a signal raises KeyboardInterrupt: all is cleared as for Ctrl-C, and :func:`sent` tells which it was."""
    _State.depth += 1
    _State.sent = 0
    try:
        yield
    finally:
        _State.depth -= 1


def sent() -> int:
    """The exit code, as a shell gives it, of a signal that came inside; 0 where none did."""
    return 128 + _State.sent if _State.sent else 0


def _end(number: int, *_: Any) -> None:
    give_up = getattr(sys.modules.get("edgeopt.report.prompt"), "give_up", None)  # else nobody has asked for anything yet
    if give_up is not None:
        give_up()
    if number == signal.SIGHUP:
        _leave_terminal()
    if not _State.depth:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # also where it is being written to just now
                stream.flush()
        _end_process(128 + number)
    _State.sent = number
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Nobody reads what would be written to a terminal that is gone, and writing to it is an error."""
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
