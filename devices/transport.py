"""What a kind of device must do: four operations on its shell and files (run, send, fetch, close). All else is built on those.

    Transport (local, ssh, adb)  -->  Device (verified push, sessions, facts)  -->  bench

A new kind of device is one file with one class that satisfies :class:`Transport`, and one line in ``registry.py`` (or an entry
point ``edgeopt.devices`` of another package) that maps a URL's scheme to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MAX_OUTPUT_BYTES = 16 * 1024**2
"""More than any honest command here prints; a device that says more is cut off."""
NOT_FOUND = 127
"""What a shell gives as the exit code where it finds no program."""
QUICK_S = 20.0
"""Time for a command that only looks or moves a file."""

OnOutput = Callable[[bytes], None]
"""Takes what a command prints, piece by piece, as it comes."""
Ask = Callable[[str], str]
"""Asks the user for a secret: a password, or a key's passphrase."""
OnBytes = Callable[[int], None]
"""Takes how many bytes of a transfer have been handed over since the last call."""


def asked_by(name: str, ask: Ask) -> Ask:
    """``ask`` with the device's name before each question that does not have it: several may ask at once."""
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
    return lambda question: ask(question if word.search(question) else f"{name}: {question}")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended by itself. ``exit_code`` is 128 + N where signal N ended it, as a shell says it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """A connection to one device. ``send`` and a quick ``run`` may be called from other threads while a ``run`` goes on.

    Every operation raises LinkLost where the connection ends or is dead for 30 s, DeviceTimeout where its time is over,
    and nothing else that comes from the network or the device; what was cut off is no longer read.
    """

    url: str
    """As it can be given again, without passwords."""
    can_resume: bool
    """Whether ``send`` can go on behind bytes that a file on the device already has."""

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        on_output: OnOutput | None = None,
        limit: int = MAX_OUTPUT_BYTES,
    ) -> Finished:
        """Runs ``command`` (the program and its arguments, each taken literally by the device) with no standard input.

        ``on_output`` gets standard output as it comes; it is kept in the result too. Raises DeviceTimeout after
        ``timeout_s`` seconds, BadAnswer where it prints more than ``limit`` bytes. Neither ends the command on the device:
        that is the session's business, or that of :func:`edgeopt.devices.session.watched.watched`.
        """

    def send(self, source: BinaryIO, remote: str, *, offset: int = 0, on_bytes: OnBytes | None = None) -> None:
        """Writes what is left of ``source`` to the file ``remote``, from byte ``offset`` on (0: a new file, or an emptied one).

        Raises DeviceFull where there is no room, DeviceError where the file cannot be written.
        """

    def fetch(self, remote: str, sink: BinaryIO, *, limit: int) -> None:
        """Reads the file ``remote`` into ``sink``. Raises BadAnswer beyond ``limit`` bytes, DeviceError where there is none."""

    def close(self) -> None:
        """Ends the connection, also while another thread uses it (which then raises LinkLost); twice is once."""


def text(content: bytes) -> str:
    """What a device printed; bytes that are no UTF-8 shown as escapes."""
    return content.decode("utf-8", "backslashreplace")
