"""The SFTP client against servers that no real one is like: they answer in any order, a little at a time, or lie."""

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices.ssh import sftp
from edgeopt.devices.ssh.sftp import READ, Refused, Sftp
from edgeopt.errors import BadAnswer, LinkLost
from tests.emulators.sftp_script import Script

VERSION_3 = struct.pack(">IBI", 5, 2, 3)
HANDLE = b"handle"


class Server:
    """Holds one file. Keeps ``held`` answers back, gives them in an order of ``choose``, and reads at most ``most`` bytes."""

    def __init__(self, content: bytes, choose: Callable[[int], int], most: int, held: int) -> None:
        self.content = bytearray(content)
        self._choose, self._most, self._held = choose, most, held
        self._waiting: list[bytes] = []
        self._out = bytearray(VERSION_3)

    def write(self, data: bytes) -> None:
        kind, body = data[4], data[5:]
        if kind == 1:
            return
        number = body[:4]
        if kind == 3:
            self._answer(102, number + struct.pack(">I", len(HANDLE)) + HANDLE)
            return
        start = 8 + len(HANDLE)
        if kind == 5:
            offset, length = struct.unpack_from(">QI", body, start)
            data = bytes(self.content[offset : offset + min(length, self._most)])
            self._answer(103, number + struct.pack(">I", len(data)) + data) if data else self._status(number, 1)
        elif kind == 6:
            offset, length = struct.unpack_from(">QI", body, start)
            self.content[offset : offset + length] = body[start + 12 :]
            self._status(number, 0)

    def ready(self) -> bool:
        return len(self._waiting) > self._held

    def read(self, count: int) -> bytes:
        while len(self._out) < count:
            self._out += self._waiting.pop(self._choose(len(self._waiting)))
        data = bytes(self._out[:count])
        del self._out[:count]
        return data

    def _status(self, number: bytes, code: int) -> None:
        self._answer(101, number + struct.pack(">III", code, 0, 0))

    def _answer(self, kind: int, body: bytes) -> None:
        self._waiting.append(struct.pack(">IB", len(body) + 1, kind) + body)


@given(data=st.data(), content=st.binary(max_size=300_000), most=st.integers(1000, 200_000), held=st.integers(0, 10))
def test_a_file_is_read_and_written_whatever_the_order_of_answers(
    data: st.DataObject, content: bytes, most: int, held: int
) -> None:
    server = Server(content, lambda count: data.draw(st.integers(0, count - 1)), most, held)
    files = Sftp(server)
    handle = files.open("file", READ)
    sink = io.BytesIO()
    assert files.read(handle, sink, len(content))
    assert sink.getvalue() == content
    server.content.clear()
    written: list[int] = []
    files.write(handle, io.BytesIO(content), 0, written.append)
    assert bytes(server.content) == content
    assert sum(written) == len(content)


@given(st.binary(max_size=400))
def test_no_answer_breaks_the_client(answers: bytes) -> None:
    with pytest.raises((BadAnswer, LinkLost, Refused)):
        files = Sftp(Script(answers))
        handle = files.open("file", READ)
        files.read(handle, io.BytesIO(), 10**6)
        files.size(handle)
        raise LinkLost("the end")


packets = st.builds(
    lambda kind, number, body: struct.pack(">IBI", len(body) + 5, kind, number) + body,
    st.sampled_from([2, 101, 102, 103, 105, 201]),
    st.integers(0, 4),
    st.one_of(st.binary(max_size=40), st.builds(lambda data: struct.pack(">I", len(data)) + data, st.binary(max_size=40))),
)


@given(st.lists(packets, max_size=8))
def test_no_sequence_of_packets_breaks_the_client(answers: list[bytes]) -> None:
    with pytest.raises((BadAnswer, LinkLost, Refused)):
        files = Sftp(Script(VERSION_3 + b"".join(answers)))
        handle = files.open("file", READ)
        files.read(handle, io.BytesIO(), 10**6)
        files.size(handle)
        files.truncate(handle, 0)
        raise LinkLost("the end")


def test_a_server_that_sends_more_than_was_asked_for_is_refused() -> None:
    handle = struct.pack(">IBI", 9, 102, 0) + struct.pack(">I", 0)
    data = struct.pack(">IBII", 9 + 40_000, 103, 1, 40_000) + bytes(40_000)
    files = Sftp(Script(VERSION_3 + handle + data))
    with pytest.raises(BadAnswer, match="40000 bytes where"):
        files.read(files.open("file", READ), io.BytesIO(), 10**6)


def test_a_packet_of_gigabytes_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadAnswer, match="a packet of 4294967295 bytes"):
        Sftp(Script(b"\xff" * 10))


class Slow(Server):
    """A link that carries so many bytes a second, behind a buffer without end: every byte waits for those before it."""

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__(b"", lambda count: 0, 10**6, 0)
        self._bytes_per_s, self.now, self._free_at = bytes_per_s, 0.0, 0.0
        self._at: list[float] = []
        self.longest = 0.0

    def write(self, data: bytes) -> None:
        self._free_at = max(self._free_at, self.now) + len(data) / self._bytes_per_s
        self.longest = max(self.longest, self._free_at - self.now)
        before = len(self._waiting)
        super().write(data)
        self._at += [self._free_at] * (len(self._waiting) - before)

    def ready(self) -> bool:
        return bool(self._at) and self._at[0] <= self.now

    def read(self, count: int) -> bytes:
        if len(self._out) < count:
            self.now = max(self.now, self._at.pop(0))
        return super().read(count)


@pytest.mark.parametrize(("bytes_per_s", "seconds", "most_s"), [(16_000, 60, 2.0), (200_000, 20, 2.0), (100_000_000, 0.2, 0.1)])
def test_what_is_on_the_way_is_what_the_link_carries_in_a_moment(
    monkeypatch: pytest.MonkeyPatch, bytes_per_s: float, seconds: float, most_s: float
) -> None:
    """Signs of life over the same connection wait behind it."""
    server = Slow(bytes_per_s)
    monkeypatch.setattr(sftp.time, "monotonic", lambda: server.now)
    files = Sftp(server)
    handle = files.open("file", READ)
    files.write(handle, io.BytesIO(bytes(int(bytes_per_s * seconds))), 0, None)
    assert server.longest < most_s
    assert server.now < 1.2 * seconds  # the link is busy nearly all of the time
