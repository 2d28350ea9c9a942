"""What a running command prints, gathered within its time and its limit: the same for every kind of transport."""

import time
from collections.abc import Sequence

from edgeopt.devices.refusals import shown_command
from edgeopt.devices.transport import Finished, OnOutput
from edgeopt.errors import BadAnswer, DeviceTimeout, UsageError


class Drain:
    """Takes pieces of both streams; knows when time is over.

    Raises UsageError for a command that no device can be given, BadAnswer beyond ``limit`` bytes of both streams together.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float, limit: int, on_output: OnOutput | None = None) -> None:
        if not command or any("\0" in argument for argument in command):
            raise UsageError(f"{command!r} is no command", why="it is empty, or holds a NUL character", fix="give another one")
        self._command = shown_command(command)
        self._timeout_s, self._limit, self._on_output = timeout_s, limit, on_output
        self._deadline = time.monotonic() + timeout_s
        self._stdout, self._stderr, self._bytes = bytearray(), bytearray(), 0

    def out(self, piece: bytes) -> None:
        """Takes what came on standard output."""
        self._count(piece)
        self._stdout += piece
        if self._on_output is not None:
            self._on_output(piece)

    def err(self, piece: bytes) -> None:
        """Takes what came on standard error."""
        self._count(piece)
        self._stderr += piece

    def left_s(self) -> float:
        """Seconds until time is over. Raises DeviceTimeout where it is."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> DeviceTimeout:
        """Time is over."""
        why = f"it still ran after {self._timeout_s:g} s"
        return DeviceTimeout(f"{self._command} did not end", why=why, fix="give it more time, or see what holds up the device")

    def finished(self, exit_code: int) -> Finished:
        """The command has ended by itself."""
        return Finished(exit_code, bytes(self._stdout), bytes(self._stderr))

    def _count(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes > self._limit:
            why = f"it printed more than {self._limit} bytes"
            raise BadAnswer(f"the output of {self._command} was cut off", why=why, fix="look at what it prints on the device")
