"""ADB's packets on a socket: 24 bytes of header (command, two arguments, length, checksum, magic), then the data.

Format and numbers: packages/modules/adb/protocol.txt and adb.h of the Android source.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from edgeopt.devices.adb.streams import DEAD_S, lost, nonsense

OLD_VERSION = 0x01000000
VERSION = 0x01000001
"""From this version on (Android 9) nobody computes checksums."""
MAX_DATA = 1024 * 1024
MAX_OLD_DATA = 4096
"""What every device takes (MAX_PAYLOAD_V1)."""
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
"""The first argument of an AUTH packet."""
_HEAD = struct.Struct("<6I")
_TICK_S = 1.0


class Packet(NamedTuple):
    """One message. ``arg0`` is the sender's number of the stream, ``arg1`` the receiver's, but for CNXN and AUTH."""

    command: bytes
    arg0: int
    arg1: int
    data: bytes


class PacketSocket:
    """Packets over ``link``, which it owns. One thread may receive while others send."""

    def __init__(self, link: socket.socket, url: str) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(_TICK_S)
        self.url, self.checksums = url, True
        self._link, self._sending = link, threading.Lock()
        self.heard = time.monotonic()
        """When the device was last heard of."""

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes | memoryview = b"", *, wait: bool = True) -> bool:
        """Sends a packet; ``wait=False``: only where no other thread sends just now. Returns whether it was sent."""
        if not self._sending.acquire(blocking=wait):
            return False
        try:
            number = int.from_bytes(command, "little")
            check = checksum(data) if self.checksums else 0
            head = _HEAD.pack(number, arg0, arg1, len(data), check, number ^ 0xFFFFFFFF)
            self._send_all(head, memoryview(data))
            return True
        except OSError as error:
            raise lost(self.url, str(error)) from error
        finally:
            self._sending.release()

    def receive(self, on_wait: Callable[[], None]) -> Packet:
        """The next packet; calls ``on_wait`` at least once a second while it is not whole. Raises LinkLost, BadAnswer."""
        head = self._receive_exactly(_HEAD.size, on_wait)
        command, arg0, arg1, length, check, magic = _HEAD.unpack(head)
        if magic != command ^ 0xFFFFFFFF or length > MAX_DATA:
            raise nonsense(self.url, "sent bytes that are no packet")
        data = self._receive_exactly(length, on_wait)
        if self.checksums and check and check != checksum(data):
            raise nonsense(self.url, "sent a packet with a wrong checksum")
        return Packet(command.to_bytes(4, "little"), arg0, arg1, data)

    def close(self) -> None:
        """Wakes whoever sends or receives, with LinkLost."""
        with suppress(OSError):  # the other side was faster
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _send_all(self, head: bytes, data: memoryview) -> None:
        rest, begun = [memoryview(head), data], False
        while rest := [view for view in rest if view]:
            try:
                sent = self._link.sendmsg(rest)  # not joined: that would copy a megabyte for each packet
            except TimeoutError:
                if time.monotonic() - self.heard > DEAD_S:
                    raise lost(self.url, f"it has taken nothing for {DEAD_S:.0f} s") from None
                continue
            # Only the rest of a packet says that the other side takes bytes: the first of it may lie in a buffer here.
            if begun:
                self.heard = time.monotonic()
            begun = True
            for i, view in enumerate(rest):
                rest[i] = view[sent:]
                sent = max(0, sent - len(view))

    def _receive_exactly(self, length: int, on_wait: Callable[[], None]) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            try:
                count = self._link.recv_into(view)
            except TimeoutError:
                on_wait()
                continue
            except OSError as error:
                raise lost(self.url, str(error)) from error
            if not count:
                raise lost(self.url, "the device closed it")
            self.heard = time.monotonic()
            view = view[count:]
            if view:
                on_wait()  # here too: a device that sends a byte now and then is not to hold anybody for ever
        return bytes(data)


def checksum(data: bytes | memoryview) -> int:
    """Of a packet's data, as devices older than Android 9 ask for it: the sum of its bytes, in 32 bits."""
    return sum(data) & 0xFFFFFFFF
