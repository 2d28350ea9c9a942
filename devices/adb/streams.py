"""What a connection to an Android device offers: streams to its services. Both ways there (TCP, adb server) satisfy it."""

from typing import Protocol

from edgeopt.errors import BadAnswer, LinkLost

DEAD_S = 28.0
"""A device from which nothing came for so long, although it was asked, is gone."""
PROBE_S = 10.0
"""Silence after which a device is asked whether it is still there. A quiet command is no dead link."""
FIRST_BLOCK, LEAST_BLOCK = 64 * 1024, 16 * 1024
"""Bytes that a stream hands over at once at first, and at least."""
FAST_S, SLOW_S = 0.5, 5.0
"""A device that takes a block in less gets larger ones, one that needs longer smaller ones: silence never lasts long."""
PROBE = "edgeopt-probe:"
"""A service that no daemon has: it says so at once, and starts no process that would disturb a measurement."""


class Stream(Protocol):
    """Bytes to and from one service of the device. ``read`` and ``write`` raise LinkLost where the link ends or is dead."""

    @property
    def block(self) -> int:
        """How many bytes one ``write`` should hold now."""

    def read(self, timeout_s: float) -> bytes:
        """The next bytes, empty after the device has closed the stream. Raises TimeoutError."""

    def write(self, data: bytes) -> None:
        """Hands over all of ``data``; to a stream that the device has closed, nothing."""

    def pending(self) -> bool:
        """Whether ``read`` would return at once."""

    def close(self) -> None:
        """Ends the stream; what the device still says is not read."""


class Connection(Protocol):
    """A device that has let us in."""

    features: frozenset[str]
    """As the device names them: ``shell_v2``, ``cmd``, ..."""

    def open(self, service: str) -> Stream:
        """A stream to ``service``. Raises DeviceError where the device refuses it, LinkLost where it is gone."""

    def close(self) -> None:
        """Ends the connection; every stream raises LinkLost from now on."""


def lost(url: str, why: str) -> LinkLost:
    """The LinkLost of the device at ``url``."""
    return LinkLost(f"lost the connection to {url}", why=why, fix="check the device and its cable or network, then run again")


def nonsense(url: str, what: str) -> BadAnswer:
    """The BadAnswer of the device at ``url`` that did ``what``."""
    return BadAnswer(f"{url} {what}", why="it does not keep to the ADB protocol", fix="restart the device and try again")


class Exactly:
    """Reads a given number of bytes at a time from a stream."""

    def __init__(self, stream: Stream, url: str, timeout_s: float) -> None:
        self._stream, self._url, self._timeout_s, self._buffer = stream, url, timeout_s, b""

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises LinkLost where the stream ends before, TimeoutError where nothing comes."""
        pieces, missing = [self._buffer], count - len(self._buffer)
        while missing > 0:
            piece = self._stream.read(self._timeout_s)
            if not piece:
                raise lost(self._url, "the device closed the stream in the middle of an answer")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._buffer = data[count:]
        return data[:count]
