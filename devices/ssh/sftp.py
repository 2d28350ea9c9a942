"""Files over SFTP, version 3 (draft-ietf-secsh-filexfer-02), with many requests on the way at once.

How much is on the way follows what the link carries: on a fast one enough to fill it, on a slow one only what it carries in a
few seconds. Whatever else goes over the same connection, signs of life above all, waits behind no more than that.
Everything that comes back is bounded and checked: a device may lie.
"""

import os
import re
import struct
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Protocol

from edgeopt.devices.transport import OnBytes
from edgeopt.errors import BadAnswer

SMALL_BYTES, USUAL_BYTES, LARGE_BYTES = 1024, 32 * 1024 - 64, 192 * 1024 - 64
"""A request on the slowest link, what every server takes, and what is asked for where the server says that it takes it
(limits@openssh.com)."""
LEAST_BYTES, FIRST_BYTES, MOST_BYTES = 4 * SMALL_BYTES, 16 * 1024, 3 * 1024**2 // 2
"""Asked for or sent before an answer: on the slowest link, at first, and on the fastest: less than OpenSSH's window of 2 MiB,
which then never closes; 75 MB/s at 20 ms away."""
SHORT_S, LONG_S = 0.25, 0.75
"""Requests that wait on the way for so short a time let more be sent, for so long a time less. A small file needs half a dozen
answers, and is to be through in seconds."""
NOISE_BYTES = 64 * 1024
"""What a login shell's start-up files may print before the server speaks."""
MAX_PACKET_BYTES = 1024**2
_VERSION = re.compile(rb"\0[\0-\x0f]..\x02", re.DOTALL)
"""The start of the server's first packet. Text has no NUL."""
READ, WRITE, CREATE, TRUNCATE = 0x01, 0x02, 0x08, 0x10
"""pflags of SSH_FXP_OPEN."""


class Kind(IntEnum):
    """The first byte of a packet."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    FSTAT = 8
    FSETSTAT = 10
    STATUS = 101
    HANDLE = 102
    DATA = 103
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """What a STATUS packet says."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4


class Refused(Exception):
    """The server answered a request with a status other than OK."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text or f"status {code}")


class Stream(Protocol):
    """The channel's bytes. Its own failures (LinkLost, DeviceTimeout) pass through."""

    def write(self, data: bytes) -> None: ...
    def read(self, count: int) -> bytes: ...
    def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    kind: int
    body: bytes

    def expect(self, kind: Kind) -> bytes:
        """The body of a packet of ``kind``. Raises Refused for a status, BadAnswer for anything else."""
        if self.kind == kind:
            return self.body
        if self.kind != Kind.STATUS:
            raise _nonsense(f"a packet of kind {self.kind} where {kind.name} belongs")
        code, text = _number(self.body), ""
        if len(self.body) > 4:
            text = _string(self.body, 4).decode(errors="replace")
        raise Refused(code, text)

    def check(self) -> None:
        """Raises Refused unless the status is OK."""
        try:
            self.expect(Kind.CLOSE)  # no answer is of this kind
        except Refused as refused:
            if refused.code != Code.OK:
                raise


@dataclass(frozen=True, slots=True)
class _Request:
    number: int
    size: int
    at: float


class _OnTheWay:
    """Requests without an answer, the oldest first; ``size`` is that of their data in bytes."""

    def __init__(self) -> None:
        self._requests: deque[_Request] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, number: int, size: int) -> None:
        self._requests.append(_Request(number, size, time.monotonic()))
        self.size += size

    def pop(self) -> _Request:
        request = self._requests.popleft()
        self.size -= request.size
        return request


class Sftp:
    """A session on ``stream``, for one thread. Raises Refused, and BadAnswer for what is not SFTP."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._next = 0
        self._waiting: set[int] = set()
        self._answers: dict[int, _Answer] = {}
        self._most_bytes = USUAL_BYTES
        self._window = FIRST_BYTES
        self._nearest_s, self._cut_at = float("inf"), 0.0
        self._limits: int | None = None
        stream.write(_packet(Kind.INIT, struct.pack(">I", 3)))
        version = self._first_packet()
        if version.kind != Kind.VERSION or _number(version.body) != 3:
            raise _nonsense("no SFTP version 3 at the start")
        if b"limits@openssh.com" in version.body:
            self._limits = self._send(Kind.EXTENDED, _text(b"limits@openssh.com"))

    def open(self, path: str, flags: int) -> bytes:
        """A handle of the file."""
        body = struct.pack(">II", flags, 0)
        return _string(self._request(Kind.OPEN, _text(os.fsencode(path)) + body).expect(Kind.HANDLE))

    def close(self, handle: bytes) -> None:
        """Gives the handle back."""
        self._request(Kind.CLOSE, _text(handle)).check()

    def size(self, handle: bytes) -> int | None:
        """The file's bytes, where the server says them."""
        body = self._request(Kind.FSTAT, _text(handle)).expect(Kind.ATTRS)
        if not _number(body) & 1:
            return None
        if len(body) < 12:
            raise _nonsense("a cut-off answer")
        return int(struct.unpack_from(">Q", body, 4)[0])

    def truncate(self, handle: bytes, size: int) -> None:
        """Cuts the file off behind ``size`` bytes."""
        self._request(Kind.FSETSTAT, _text(handle) + struct.pack(">IQ", 1, size)).check()

    def write(self, handle: bytes, source: BinaryIO, offset: int, on_bytes: OnBytes | None) -> None:
        """Writes what is left of ``source`` from ``offset`` on; ``on_bytes`` hears of what has been written."""
        written = _OnTheWay()

        def settle() -> None:
            sent = written.pop()
            self._answer(sent.number).check()
            self._heed(sent)
            if on_bytes is not None:
                on_bytes(sent.size)

        while piece := source.read(self._chunk_bytes):
            number = self._send(Kind.WRITE, _text(handle), struct.pack(">QI", offset, len(piece)), piece)
            written.add(number, len(piece))
            offset += len(piece)
            while written and (written.size >= self._window or self._stream.ready()):
                settle()
        while written:
            settle()

    def read(self, handle: bytes, sink: BinaryIO, limit: int) -> bool:
        """Copies the file into ``sink``; False, with at most ``limit`` bytes copied, where it has more."""
        done = ahead = 0
        asked = _OnTheWay()
        while True:
            while not asked or asked.size < self._window:
                length = min(self._chunk_bytes, limit + 1 - ahead)
                if length <= 0:
                    break
                asked.add(self._send(Kind.READ, _text(handle) + struct.pack(">QI", ahead, length)), length)
                ahead += length
            request = asked.pop()
            try:
                data = _string(self._answer(request.number).expect(Kind.DATA))
            except Refused as refused:
                if refused.code == Code.EOF:
                    self._forget(asked)
                    return True
                raise
            if not 0 < len(data) <= request.size:
                raise _nonsense(f"{len(data)} bytes where {request.size} were asked for")
            if done + len(data) > limit:
                return False
            sink.write(data)
            done += len(data)
            self._heed(request)
            if len(data) < request.size:  # what was asked for beyond it is at the wrong place now
                self._forget(asked)
                ahead = done

    @property
    def _chunk_bytes(self) -> int:
        """Four requests fill the window, so that the link is never empty."""
        return max(SMALL_BYTES, min(self._most_bytes, self._window // 4))

    def _heed(self, answered: "_Request") -> None:
        """Lets more or less be on the way, by how much longer an answer took than the quickest: that long it had to wait."""
        now = time.monotonic()
        self._nearest_s = min(self._nearest_s, now - answered.at)
        waited = now - answered.at - self._nearest_s
        if waited < SHORT_S:
            self._window = min(self._window + answered.size, MOST_BYTES)
        elif waited > LONG_S and answered.at > self._cut_at:  # those sent before say nothing of what has changed since
            self._window, self._cut_at = max(self._window // 2, LEAST_BYTES), now
        self._heed_limits()

    def _forget(self, asked: "_OnTheWay") -> None:
        while asked:
            self._answer(asked.pop().number)

    def _heed_limits(self) -> None:
        """Nothing waits for the answer: on a slow link it takes its time."""
        if self._limits is None or self._limits not in self._answers:
            return
        number, self._limits = self._limits, None
        try:
            body = self._answer(number).expect(Kind.EXTENDED_REPLY)
        except Refused:
            return
        if len(body) < 32:
            raise _nonsense("cut-off limits")
        _, reading, writing, _ = struct.unpack_from(">QQQQ", body)
        self._most_bytes = max(SMALL_BYTES, min(LARGE_BYTES, reading, writing))

    def _request(self, kind: Kind, body: bytes) -> _Answer:
        start = time.monotonic()
        answer = self._answer(self._send(kind, body))
        self._nearest_s = min(self._nearest_s, time.monotonic() - start)
        return answer

    def _send(self, kind: Kind, *body: bytes) -> int:
        number = self._next
        self._next = (number + 1) % 2**32
        self._waiting.add(number)
        self._stream.write(_packet(kind, struct.pack(">I", number), *body))
        return number

    def _answer(self, number: int) -> _Answer:
        """The answer to request ``number``; those to others that come before it are kept."""
        while number not in self._answers:
            packet = self._packet()
            answered = _number(packet.body)
            if answered not in self._waiting:
                raise _nonsense("an answer to a question that was not asked")
            self._waiting.remove(answered)
            self._answers[answered] = _Answer(packet.kind, packet.body[4:])
        return self._answers.pop(number)

    def _first_packet(self) -> _Answer:
        """What the login shell prints before the server speaks is passed over."""
        said = self._stream.read(5)
        while not _VERSION.match(said, len(said) - 5):
            if b"\xff" in said:  # in no text
                raise _nonsense(f"a packet of {_number(said)} bytes")
            if len(said) > NOISE_BYTES:
                raise _nonsense("no SFTP version 3 at the start")
            said += self._stream.read(1)
        (length,) = struct.unpack(">I", said[-5:-1])
        return _Answer(said[-1], self._stream.read(length - 1) if length > 1 else b"")

    def _packet(self) -> _Answer:
        length = _number(self._stream.read(4))
        if not 5 <= length <= MAX_PACKET_BYTES:
            raise _nonsense(f"a packet of {length} bytes")
        packet = self._stream.read(length)
        return _Answer(packet[0], packet[1:])


def _packet(kind: Kind, *body: bytes) -> bytes:
    return b"".join((struct.pack(">IB", sum(map(len, body)) + 1, kind), *body))


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _number(data: bytes) -> int:
    if len(data) < 4:
        raise _nonsense("a cut-off answer")
    return int(struct.unpack_from(">I", data)[0])


def _string(data: bytes, start: int = 0) -> bytes:
    end = start + 4 + _number(data[start : start + 4])
    if len(data) < end:
        raise _nonsense("a cut-off answer")
    return data[start + 4 : end]


def _nonsense(why: str) -> BadAnswer:
    return BadAnswer("the device's SFTP server cannot be understood", why=f"it sent {why}", fix="look at the SFTP server there")
