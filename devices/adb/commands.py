"""Commands on an Android device, always with their exit codes.

With the feature ``shell_v2`` (Android 7) the daemon sends output, errors and the exit code apart. Without it the service
``exec:`` is used (Android 5), which mixes errors into the output and gives no exit code: the shell then prints it behind a
random marker. ``shell:`` is never used, since old daemons put a terminal in between that changes line ends.
"""

import re
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress

from edgeopt.devices.adb.streams import Connection, Stream, lost, nonsense
from edgeopt.devices.drain import Drain
from edgeopt.devices.transport import Finished

_STDOUT, _STDERR, _EXIT = 1, 2, 3
_MAX_PACKET = 1024 * 1024


def run(connection: Connection, url: str, command: Sequence[str], drain: Drain) -> Finished:
    """Runs ``command``; what it prints goes to ``drain``. Without ``shell_v2`` the standard error is part of the output."""
    service, apart = _service(connection, url, command)
    stream = connection.open(service)
    try:
        for kind, data in apart(_arriving(stream, drain)):
            if kind == _EXIT:
                return drain.finished(data[0] if data else 255)
            if data and kind in (_STDOUT, _STDERR):  # kinds of later versions mean nothing here
                (drain.out if kind == _STDOUT else drain.err)(data)
    finally:
        stream.close()
    raise lost(url, "a command ended without an exit code: the device went down, or its daemon did")


class _Separate:
    """Takes the shell protocol, version 2, apart: a byte for the kind, four for the length, the data."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, arriving: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
        buffer = bytearray()
        for data in arriving:
            buffer += data
            start = 0
            while len(buffer) - start >= 5:
                length = int.from_bytes(buffer[start + 1 : start + 5], "little")
                if length > _MAX_PACKET:
                    raise nonsense(self._url, "sent command output that makes no sense")
                end = start + 5 + length
                if len(buffer) < end:
                    break
                yield buffer[start], bytes(buffer[start + 5 : end])
                start = end
            del buffer[:start]


class _Marked:
    """Finds the marker and the exit code at the end of mixed output."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._end = re.compile(re.escape(marker) + rb"(\d{1,3})\r?\n?\Z")

    def __call__(self, arriving: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
        tail = b""
        for data in arriving:
            tail += data
            end = self._start_of_end(tail)
            yield _STDOUT, tail[:end]
            tail = tail[end:]
        if found := self._end.search(tail):
            yield _STDOUT, tail[: found.start()]
            yield _EXIT, bytes([min(int(found[1]), 255)])

    def _start_of_end(self, tail: bytes) -> int:
        """Where the marker and what follows it may begin, as far as it has come; the end where it cannot."""
        at = tail.rfind(self._marker)
        if at >= 0 and len(tail) - at <= len(self._marker) + 5:
            return at
        lengths = (n for n in range(min(len(self._marker) - 1, len(tail)), 0, -1) if tail.endswith(self._marker[:n]))
        return len(tail) - next(lengths, 0)


def _service(connection: Connection, url: str, command: Sequence[str]) -> "tuple[str, _Separate | _Marked]":
    # exec: the words are a program and its arguments, never the shell's own words or assignments.
    line = f"exec {shlex.join(command)} < /dev/null"
    if "shell_v2" in connection.features:
        return f"shell,v2,raw:{line}", _Separate(url)
    marker = secrets.token_hex(16)
    return f"exec:({line}) 2>&1; echo {marker}$?", _Marked(marker.encode())


def _arriving(stream: Stream, drain: Drain) -> Iterator[bytes]:
    """What the stream brings, until it ends. Raises DeviceTimeout when the time is over."""
    with suppress(TimeoutError):
        while data := stream.read(drain.left_s()):
            yield data
        return
    raise drain.timed_out()
