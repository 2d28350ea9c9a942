"""Any number of streams over one ADB connection, each usable from a thread of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from edgeopt.devices.adb.packets import Packet, PacketSocket
from edgeopt.devices.adb.streams import DEAD_S, FAST_S, FIRST_BLOCK, LEAST_BLOCK, PROBE, PROBE_S, SLOW_S, lost, nonsense
from edgeopt.errors import DeviceError, LinkLost

_FIRST_BLOCK, _LEAST_BLOCK = FIRST_BLOCK, LEAST_BLOCK
_FAST_S, _SLOW_S = FAST_S, SLOW_S
_MAX_UNREAD = 4 * 1024 * 1024
_CONSENT_S = 120.0
"""A device that is there, but does not open a stream or take a packet for so long, never will."""


class Link:
    """The streams of one connection, after its handshake: a thread receives and hands out. ``maxdata``: bytes of a packet."""

    def __init__(self, packets: PacketSocket, maxdata: int, features: frozenset[str]) -> None:
        self.url, self.features, self.maxdata = packets.url, features, maxdata
        self.packets, self._numbers = packets, count(1)
        self._streams: dict[int, LinkStream] = {}
        self._lock = threading.Lock()
        self._why: DeviceError | None = None
        self._probed = 0.0
        self._thread = threading.Thread(target=self._listen, name="edgeopt-adb", daemon=True)
        self._thread.start()

    def open(self, service: str) -> "LinkStream":
        """See :class:`edgeopt.devices.adb.streams.Connection`."""
        name = service.encode("utf-8", "surrogateescape") + b"\0"
        if len(name) > self.maxdata:
            raise DeviceError(
                f"a command for {self.url} is {len(name):,} bytes long",
                why=f"it takes at most {self.maxdata:,}",
                fix="use shorter names or fewer arguments",
            )
        stream = LinkStream(self, next(self._numbers))
        with self._lock:
            self.check()
            if not self._streams:
                self.packets.heard = self._probed = time.monotonic()  # nobody asked before: that silence means nothing
            self._streams[stream.number] = stream
        try:
            self.send(b"OPEN", stream.number, 0, name)
            stream.wait_until_open(service)
        except BaseException:
            self.forget(stream.number)
            raise
        return stream

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Sends a packet. Raises what ended the link, where it has ended: that says more than a socket that is closed."""
        try:
            self.packets.send(command, arg0, arg1, data)
        except LinkLost as error:
            self._fail(error)
            self.check()

    @property
    def ended(self) -> bool:
        """Whether the link is no more."""
        return self._why is not None

    def check(self) -> None:
        """Raises what ended the link, if something did."""
        if self._why is not None:
            raise type(self._why)(self._why.what, why=self._why.why, fix=self._why.fix) from self._why

    def forget(self, number: int) -> bool:
        """Whether the stream ``number`` was open; what comes for it is thrown away from now on."""
        with self._lock:
            return self._streams.pop(number, None) is not None

    def close(self) -> None:
        """See :class:`edgeopt.devices.adb.streams.Connection`."""
        self._fail(lost(self.url, "it was closed here"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _fail(self, why: DeviceError) -> None:
        with self._lock:
            self._why = self._why or why
            streams = list(self._streams.values())
            self._streams.clear()
        self.packets.close()
        for stream in streams:
            stream.wake()

    def _listen(self) -> None:
        try:
            while True:
                self._dispatch(self.packets.receive(self._idle))
        except DeviceError as error:
            self._fail(error)

    def _dispatch(self, packet: Packet) -> None:
        stream = self._streams.get(packet.arg1)
        if stream is None:
            # Of a stream that was closed here, maybe before the device had opened it; or the refusal of a probe.
            if packet.command in (b"OKAY", b"WRTE"):
                self.send(b"CLSE", packet.arg1, packet.arg0)
        elif packet.command == b"OKAY":
            stream.acknowledged(packet.arg0)
        elif packet.command == b"WRTE":
            stream.came(packet.data)
        elif packet.command == b"CLSE":
            stream.closed_there()

    def _idle(self) -> None:
        if not self._streams:
            return
        now = time.monotonic()
        if now - self.packets.heard > DEAD_S:
            raise lost(self.url, f"the device has said nothing for {DEAD_S:.0f} s, although it was asked")
        if now - max(self.packets.heard, self._probed) > PROBE_S:
            self._probed = now
            self.packets.send(b"OPEN", next(self._numbers), 0, PROBE.encode() + b"\0", wait=False)


class LinkStream:
    """One stream. Every packet waits for the device's consent to the one before, as the protocol asks."""

    def __init__(self, link: Link, number: int) -> None:
        self.number = number
        self._link, self._changed = link, threading.Condition()
        self._inbox: deque[bytes] = deque()
        self._unread = 0
        self._remote: int | None = None
        self._may_write, self._ended = False, False
        self._written = 0.0
        self._block = min(_FIRST_BLOCK, link.maxdata)

    @property
    def block(self) -> int:
        """See Stream. It grows while the device is fast, so that silence never lasts long with a slow one."""
        return self._block

    def wait_until_open(self, service: str) -> None:
        """Returns when the device has opened ``service``; raises DeviceError where it refuses."""
        with self._changed:
            self._consent(lambda: self._remote is not None or self._ended)
            if self._remote is None:
                kind = service.partition(":")[0]
                raise DeviceError(
                    f"{self._link.url} has no service {kind!r}",
                    why="its ADB daemon is too old or restricted",
                    fix="use a device with Android 5 or later, or edgeopt's SSH",
                )

    def read(self, timeout_s: float) -> bytes:
        """See Stream."""
        with self._changed:
            if not self._wait(lambda: bool(self._inbox) or self._ended, timeout_s):
                raise TimeoutError
            if not self._inbox:
                return b""
            data = self._inbox.popleft()
            self._unread -= len(data)
            ended = self._ended
        if not ended:
            self._link.send(b"OKAY", self.number, self._remote or 0)
        return data

    def write(self, data: bytes) -> None:
        """See Stream."""
        view = memoryview(data)
        for start in range(0, len(view), self._link.maxdata):
            with self._changed:
                self._consent(lambda: self._may_write or self._ended)
                if self._ended:
                    return
                self._may_write, self._written = False, time.monotonic()
            self._link.send(b"WRTE", self.number, self._remote or 0, view[start : start + self._link.maxdata])

    def pending(self) -> bool:
        """See Stream."""
        return bool(self._inbox) or self._ended

    def close(self) -> None:
        """See Stream."""
        if self._link.forget(self.number) and self._remote is not None:
            with suppress(DeviceError):  # then it is closed anyway
                self._link.send(b"CLSE", self.number, self._remote)

    def acknowledged(self, remote: int) -> None:
        """The device has opened the stream, or has taken what was written."""
        with self._changed:
            if self._remote is not None:
                took = time.monotonic() - self._written
                if took < _FAST_S:
                    self._block = min(self._block * 2, self._link.maxdata)
                elif took > _SLOW_S:
                    self._block = min(max(self._block // 4, _LEAST_BLOCK), self._link.maxdata)
            self._remote, self._may_write = remote, True
            self._changed.notify_all()

    def came(self, data: bytes) -> None:
        """The device has written ``data``."""
        with self._changed:
            self._inbox.append(data)
            self._unread += len(data)
            self._changed.notify_all()
        if self._unread > _MAX_UNREAD:
            raise nonsense(self._link.url, "sends without waiting for consent")

    def closed_there(self) -> None:
        """The device has closed the stream."""
        self._link.forget(self.number)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wake(self) -> None:
        """The link has ended."""
        with self._changed:
            self._changed.notify_all()

    def _consent(self, done: Callable[[], bool]) -> None:
        if not self._wait(done, _CONSENT_S):
            raise lost(self._link.url, f"it has not taken what was sent to it for {_CONSENT_S:.0f} s")

    def _wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        found = self._changed.wait_for(lambda: done() or self._link.ended, timeout_s)
        if not done():
            self._link.check()
        return found
