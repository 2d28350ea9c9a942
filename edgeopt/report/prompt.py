"""Asks for secrets at the terminal: one question at a time, progress out of the way, the terminal given back whatever happens.

Devices ask from threads of their own, which neither Ctrl-C nor a signal reaches: :func:`give_up`, called where a signal
arrives, ends the question that is open and those that wait.
"""

import os
import select
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgeopt.errors import DeviceError, NotAuthorized
from edgeopt.report.progress import paused
from edgeopt.report.text import one_line

_MOST_BYTES = 64 * 1024


class _Prompt:
    """The terminal's one question."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self._over = False
        self._silenced: tuple[int, list[Any]] | None = None
        """The terminal whose echo is off, and its settings before."""
        # The end that wakes gets a byte from give_up(): whoever waits for an answer sees the other end become readable.
        self._woken, self._wakes = os.pipe()

    def ask(self, question: str) -> str:
        """The answer without its line's end. Raises NotAuthorized where nobody gives one, DeviceError after :meth:`give_up`."""
        shown = one_line(question)
        if not sys.stdin.isatty():
            why, fix = "there is no terminal to ask at", "use a key, or an agent that holds it"
            raise NotAuthorized(f"a secret is needed: {shown}", why=why, fix=fix)
        with self._one:
            self._check()
            with paused(), _terminal() as terminal, self._without_echo(terminal):
                os.write(terminal, shown.encode() + (b" " if shown.endswith((":", "?")) else b": "))
                answer = self._line(terminal)
        if answer is None:
            raise NotAuthorized(f"a secret is needed: {shown}", why="nothing was given", fix="run again and give it")
        return answer

    def give_up(self) -> None:
        """For a signal's handler: gives the terminal back at once, and ends the question that is open and all that come."""
        self._over = True
        self._give_back()
        os.write(self._wakes, b"x")

    def _line(self, terminal: int) -> str | None:
        """What is typed until the line's end; None where the input ends."""
        typed = b""
        while not typed.endswith(b"\n"):
            ready, _, _ = select.select([terminal, self._woken], [], [])
            self._check()
            piece = os.read(terminal, 4096) if terminal in ready else b""
            if not piece or len(typed) > _MOST_BYTES:
                break
            typed += piece
        return typed.decode(sys.stdin.encoding or "utf-8", "surrogateescape").rstrip("\r\n") if typed else None

    def _check(self) -> None:
        if self._over:
            raise DeviceError("interrupted", fix="run it again")

    @contextmanager
    def _without_echo(self, terminal: int) -> Iterator[None]:
        before = termios.tcgetattr(terminal)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        self._silenced = terminal, before
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
            self._check()
            yield
        finally:
            self._give_back()
            self._silenced = None
            with suppress(OSError):  # the line's end that was typed has not been shown
                os.write(terminal, b"\n")

    def _give_back(self) -> None:
        if self._silenced is not None:
            terminal, before = self._silenced
            with suppress(OSError, termios.error):  # there may be no terminal any more
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _terminal() -> Iterator[int]:
    """The terminal itself, also where output goes into a file."""
    try:
        opened = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        opened = os.dup(sys.stdin.fileno())
    try:
        yield opened
    finally:
        os.close(opened)


_prompt = _Prompt()
ask = _prompt.ask
"""Asks the user for a secret, from any thread; see :data:`edgeopt.devices.transport.Ask`."""
give_up = _prompt.give_up
