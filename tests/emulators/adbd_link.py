"""One client's connection to the emulated adbd: packets, authentication, streams, and the faults of links."""

import base64
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA1

if TYPE_CHECKING:
    from tests.emulators.adbd import Adbd

SKIPS_CHECKSUMS = 0x01000001
CHECKS_SUMS = 0x01000000


class Cut(Exception):
    """The link of this connection is no more."""


class Stream:
    """The daemon's end of one stream: what a service reads from and writes to."""

    def __init__(self, connection: "Connection", number: int, peer: int) -> None:
        self.number, self.peer, self.ended = number, peer, False
        self._connection, self._changed = connection, threading.Condition()
        self._inbox: list[bytes] = []
        self._may_write = True

    def came(self, data: bytes) -> None:
        with self._changed:
            self._inbox.append(data)
            self._changed.notify_all()

    def acknowledged(self) -> None:
        with self._changed:
            self._may_write = True
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def read(self) -> bytes:
        """The next piece, which the client is then told of; empty when the client has closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self.ended)
            data = self._inbox.pop(0) if self._inbox else b""
        if data:
            self._connection.send(b"OKAY", self.number, self.peer)
        return data

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), self._connection.maxdata):
            with self._changed:
                self._changed.wait_for(lambda: self._may_write or self.ended)
                if self.ended:
                    raise Cut
                self._may_write = self._connection.faults.rude
            self._connection.send(b"WRTE", self.number, self.peer, bytes(view[start : start + self._connection.maxdata]))


class Connection(threading.Thread):
    def __init__(self, adbd: "Adbd", link: socket.socket, accepted: threading.Event) -> None:
        super().__init__(name="adbd-link", daemon=True)
        self.adbd, self.faults, self.maxdata = adbd, adbd.faults, adbd.maxdata
        self._link, self._accepted, self._version = link, accepted, adbd.version
        self._streams: dict[int, Stream] = {}
        self._writing = threading.Lock()
        self._gone = threading.Event()
        self._token = b""

    def cut(self) -> None:
        self._gone.set()
        with suppress(OSError):
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._link.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        with suppress(Cut, OSError):
            while True:
                self._handle(*self._receive())
        self._gone.set()
        for stream in list(self._streams.values()):
            stream.end()
        self._link.close()
        self.adbd.left(self)

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        check = 0 if self._version >= SKIPS_CHECKSUMS else sum(data) & 0xFFFFFFFF
        packet = struct.pack("<6I", number, arg0, arg1, len(data), check, number ^ 0xFFFFFFFF) + data
        self._hold()
        with self._writing:
            self.adbd.sent += len(packet)
            after = self.faults.cut_after_sent
            try:
                if after is not None and self.adbd.sent > after:
                    self._link.sendall(packet[: len(packet) // 2])
                    self.cut()
                    raise Cut
                self._link.sendall(secrets.token_bytes(len(packet) + 24) if self.faults.garbage else packet)
            except OSError as error:
                raise Cut from error

    def _hold(self) -> None:
        while self.faults.silent.is_set() and not self._gone.is_set():
            time.sleep(0.01)
        if self._gone.is_set():
            raise Cut

    def _receive(self) -> tuple[bytes, int, int, bytes]:
        command, arg0, arg1, length, check, magic = struct.unpack("<6I", self._exactly(24))
        assert magic == command ^ 0xFFFFFFFF, "the magic number is wrong"
        assert length <= self.maxdata, f"{length} bytes, more than was agreed on"
        data = self._exactly(length)
        if self._version < SKIPS_CHECKSUMS:
            assert check == sum(data) & 0xFFFFFFFF, "the checksum is wrong"
        return command.to_bytes(4, "little"), arg0, arg1, data

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            self._hold()
            rate = self.faults.bytes_per_second
            count = self._link.recv_into(view if rate is None else view[: max(1, int(rate / 20))])
            if not count:
                raise Cut
            view = view[count:]
            self.adbd.received += count
            if rate is not None:
                time.sleep(count / rate)
            after = self.faults.cut_after_received
            if after is not None and self.adbd.received > after:
                self.cut()
                raise Cut
        return bytes(data)

    def _handle(self, command: bytes, arg0: int, arg1: int, data: bytes) -> None:
        if command == b"CNXN":
            self.maxdata, self._version = min(arg1, self.maxdata), min(arg0, self.adbd.version)
            self._greet()
        elif command == b"AUTH":
            self._authenticate(arg0, data)
        elif command == b"OPEN":
            self._open(arg0, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif stream := self._streams.get(arg1):
            if command == b"OKAY":
                stream.acknowledged()
            elif command == b"WRTE":
                stream.came(data)
            elif command == b"CLSE":
                stream.end()

    def _greet(self) -> None:
        if self.adbd.tls:
            self.send(b"STLS", 0x01000000, 0)
        elif self.adbd.keys is None:
            self.send(b"CNXN", self.adbd.version, self.adbd.maxdata, self.adbd.banner())
        else:
            self._token = secrets.token_bytes(20)
            self.send(b"AUTH", 1, 0, self._token)

    def _authenticate(self, kind: int, data: bytes) -> None:
        keys = self.adbd.keys or []
        if kind == 3:  # the public key: now the user is asked
            self.adbd.offered.append(data.rstrip(b"\0"))
            while not self._accepted.wait(0.01):
                if self._gone.is_set():
                    raise Cut
            self.send(b"CNXN", self.adbd.version, self.adbd.maxdata, self.adbd.banner())
        elif kind == 2 and any(_verifies(key, data, self._token) for key in keys):
            self.send(b"CNXN", self.adbd.version, self.adbd.maxdata, self.adbd.banner())
        else:
            self._greet()

    def _open(self, peer: int, name: str) -> None:
        from tests.emulators.adbd_services import service

        self.adbd.services.append(name)
        serve = service(self.adbd, name)
        if serve is None:
            return self.send(b"CLSE", 0, peer)
        stream = self._streams[peer] = Stream(self, peer, peer)

        def work() -> None:
            with suppress(Cut):
                self.send(b"OKAY", stream.number, peer)
                serve(stream)
                self.send(b"CLSE", stream.number, peer)
            self._streams.pop(peer, None)
            stream.end()

        self.adbd.work(work)


def public_key(text: bytes) -> RSAPublicNumbers:
    """The key in ``adbkey.pub`` (android_pubkey.c: words, n0inv, modulus and R squared little-endian, exponent)."""
    words, _, modulus, _, exponent = struct.unpack("<LL256s256sL", base64.b64decode(text.split()[0]))
    assert words == 64
    return RSAPublicNumbers(exponent, int.from_bytes(modulus, "little"))


def _verifies(key: RSAPublicNumbers, signature: bytes, token: bytes) -> bool:
    try:
        key.public_key().verify(signature, token, padding.PKCS1v15(), utils.Prehashed(SHA1()))
    except InvalidSignature:
        return False
    return True
