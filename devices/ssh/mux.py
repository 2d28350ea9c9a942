"""Sessions over a connection that OpenSSH's own client holds: the protocol of its control socket (PROTOCOL.mux, version 4).

``ssh -S`` speaks it too, a process for each command. Spoken here it costs no process, and it says for certain what that one
leaves to guess: whether 255 is the command's own exit code, and which text comes from the command rather than from ``ssh``.
"""

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_HELLO, _VERSION = 0x00000001, 4
_NEW_SESSION = 0x10000002
_DENIED, _FAILURE, _EXIT, _OPENED, _NO_TERMINAL = 0x80000002, 0x80000003, 0x80000004, 0x80000006, 0x80000008
_NO_ESCAPE = 0xFFFFFFFF
_MAX_PACKET_BYTES = 256 * 1024
_LITTLE_S = 0.001


class Refused(Exception):
    """There is no session: the server, or the client's own settings, refused it."""


class Ended(Exception):
    """The client that holds the connection is gone, or has said something that it never says."""


@dataclass(slots=True)
class MuxSession:
    """A command or a subsystem that runs. Its streams are the caller's; closing it closes the SSH channel."""

    control: socket.socket
    exit_code: int | None = None
    over: bool = False
    """The channel is closed at both ends."""
    _rest: bytearray = field(default_factory=bytearray)

    def heed(self) -> None:
        """Takes what the client says, once its socket is readable. Raises Ended."""
        try:
            piece = self.control.recv(4096)
        except OSError as error:
            raise Ended(error.strerror or str(error)) from error
        self._rest += piece
        self.over = self.over or not piece
        while (packet := _cut(self._rest)) is not None:
            if _number(packet) == _EXIT:
                self.exit_code = _number(packet, 8)

    def finish(self, seconds: float) -> None:
        """Waits until the server has closed the channel: Dropbear ends the connection where the client does so first."""
        until = time.monotonic() + seconds
        while not self.over and (left := until - time.monotonic()) > 0:
            self.control.settimeout(max(left, _LITTLE_S))
            try:
                self.heed()
            except Ended:
                return

    def close(self) -> None:
        """Ends the session, also while it runs."""
        self.control.close()


def open_session(path: str, command: bytes, streams: Sequence[int], *, subsystem: bool, seconds: float) -> MuxSession:
    """Starts ``command`` with ``streams`` (file descriptors for 0, 1 and 2, which stay the caller's).

    Raises Refused, Ended, and TimeoutError where nothing is answered in ``seconds``.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.settimeout(max(seconds, _LITTLE_S))
        control.connect(path)
        _say(control, struct.pack(">II", _HELLO, _VERSION))
        if struct.unpack_from(">II", _hear(control)) != (_HELLO, _VERSION):
            raise Ended(f"it does not speak version {_VERSION} of its protocol")
        flags = struct.pack(">IIIII", 0, 0, 0, subsystem, _NO_ESCAPE)  # no terminal, no X11, no agent
        _say(control, struct.pack(">II", _NEW_SESSION, 0) + _text(b"") + flags + _text(b"") + _text(command))
        for stream in streams:
            socket.send_fds(control, [b"\0"], [stream])
        return _opened(control)
    except TimeoutError:
        control.close()
        raise
    except OSError as error:
        control.close()
        raise Ended(error.strerror or str(error)) from error
    except BaseException:
        control.close()
        raise


def _opened(control: socket.socket) -> MuxSession:
    while (kind := _number(packet := _hear(control))) != _OPENED:
        if kind in (_DENIED, _FAILURE):
            raise Refused(packet[12:].decode(errors="replace") or "it gave no reason")
        if kind != _NO_TERMINAL:
            raise Ended(f"it sent {kind:#x} where a session begins")
    return MuxSession(control)


def _say(control: socket.socket, packet: bytes) -> None:
    control.sendall(struct.pack(">I", len(packet)) + packet)


def _hear(control: socket.socket) -> bytes:
    """One packet. Raises Ended where the other end closes first."""
    rest = bytearray()
    while True:
        wanted = 4 if len(rest) < 4 else 4 + _number(rest)
        if wanted > _MAX_PACKET_BYTES:
            raise Ended(f"it sent a packet of {wanted} bytes")
        if len(rest) == wanted and len(rest) > 4:
            return bytes(rest[4:])
        if not (piece := control.recv(wanted - len(rest))):
            raise Ended("it hung up")
        rest += piece


def _cut(rest: bytearray) -> bytes | None:
    """The first packet of ``rest``, taken out of it; None where it is not all there."""
    if len(rest) < 4 or len(rest) < 4 + _number(rest):
        return None
    packet = bytes(rest[4 : 4 + _number(rest)])
    del rest[: 4 + len(packet)]
    return packet


def _number(data: bytes | bytearray, start: int = 0) -> int:
    if len(data) < start + 4:
        raise Ended("it sent a cut-off packet")
    return int(struct.unpack_from(">I", data, start)[0])


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
