"""Files to and from an Android device, by the daemon's ``sync:`` service.

Format: packages/modules/adb/SYNC.TXT of the Android source. Every message is four letters and a number; a file is sent as
``SEND path,mode``, pieces of at most 64 KiB, and ``DONE time``, and is only there in full or not at all.
"""

import stat
import struct
import time
from typing import BinaryIO

from edgeopt.devices.adb.streams import Connection, Exactly, Stream, nonsense
from edgeopt.devices.transport import OnBytes
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, DeviceTimeout

_PIECE = 64 * 1024
_HEAD = 8
_MODE = stat.S_IFREG | 0o600
_STALL_S = 60.0
"""Time for the device to write what it was sent, or to read the next piece; flash memory can be busy for seconds."""
_MAX_PATH = 1024


def send(connection: Connection, url: str, source: BinaryIO, remote: str, on_bytes: OnBytes | None) -> None:
    """See :meth:`edgeopt.devices.transport.Transport.send`. The mode is 0600, to be changed by a command."""
    stream = connection.open("sync:")
    try:
        reader = Exactly(stream, url, _STALL_S)
        _check_folder(stream, reader, url, remote)
        stream.write(_request(b"SEND", remote, f",{_MODE}"))
        while not stream.pending():  # an answer before the end is a refusal
            pieces, size = _pieces(source, stream.block)
            if not size:
                stream.write(struct.pack("<4sI", b"DONE", int(time.time()) & 0xFFFFFFFF))
                break
            stream.write(pieces)
            if on_bytes is not None:
                on_bytes(size)
        _accepted(reader, url, remote)
        stream.write(struct.pack("<4sI", b"QUIT", 0))
    except TimeoutError:
        raise _stalled(url, remote) from None
    finally:
        stream.close()


def fetch(connection: Connection, url: str, remote: str, sink: BinaryIO, limit: int) -> None:
    """See :meth:`edgeopt.devices.transport.Transport.fetch`."""
    stream = connection.open("sync:")
    try:
        stream.write(_request(b"RECV", remote))
        _receive(stream, url, remote, sink, limit)
        stream.write(struct.pack("<4sI", b"QUIT", 0))
    except TimeoutError:
        raise _stalled(url, remote) from None
    finally:
        stream.close()


def _receive(stream: Stream, url: str, remote: str, sink: BinaryIO, limit: int) -> None:
    reader, total = Exactly(stream, url, _STALL_S), 0
    while True:
        kind, size = struct.unpack("<4sI", reader.read(8))
        if kind == b"DONE":
            return
        if kind == b"FAIL":
            raise _failure(reader, size, url, f"cannot read {remote}")
        if kind != b"DATA" or size > _PIECE:
            raise nonsense(url, f"sent a piece of {remote} that makes no sense")
        total += size
        if total > limit:
            raise BadAnswer(
                f"{remote} on {url} is larger than {limit:,} bytes",
                why="edgeopt reads no more than it expects",
                fix="look at what wrote this file, and remove it from the device",
            )
        sink.write(reader.read(size))


def _pieces(source: BinaryIO, block: int) -> tuple[bytes, int]:
    """Messages of at most ``block`` bytes, to be one packet, and how many bytes of the file they hold: none at its end."""
    pieces, size, room = [], 0, block
    while room > _HEAD and (data := source.read(min(_PIECE, room - _HEAD))):
        pieces += [struct.pack("<4sI", b"DATA", len(data)), data]
        size += len(data)
        room -= _HEAD + len(data)
    return b"".join(pieces), size


def _request(kind: bytes, remote: str, more: str = "") -> bytes:
    path = (remote + more).encode("utf-8", "surrogateescape")
    if len(path) > _MAX_PATH or b"\0" in path:
        raise DeviceError(
            f"{remote[:80]!r}... is no path that ADB can take",
            why=f"it is {len(path):,} bytes long; at most {_MAX_PATH:,} are allowed, and no null byte",
            fix="use a shorter name",
        )
    return struct.pack("<4sI", kind, len(path)) + path


def _check_folder(stream: Stream, reader: Exactly, url: str, remote: str) -> None:
    # The daemon would make the folder, whatever its name: a misspelt path is to be an error, as everywhere else.
    stream.write(_request(b"STAT", remote.rpartition("/")[0] or "/"))
    kind, mode, _, _ = struct.unpack("<4s3I", reader.read(16))
    if kind != b"STAT":
        raise nonsense(url, "does not say what it knows about a folder")
    if not mode:
        raise DeviceError(f"cannot write {remote} on {url}", why="its folder is not there", fix="make the folder first")


def _accepted(reader: Exactly, url: str, remote: str) -> None:
    kind, size = struct.unpack("<4sI", reader.read(8))
    if kind == b"FAIL":
        raise _failure(reader, size, url, f"cannot write {remote}")
    if kind != b"OKAY":
        raise nonsense(url, f"does not say whether it has written {remote}")


def _failure(reader: Exactly, size: int, url: str, what: str) -> DeviceError:
    if size > _PIECE:
        return nonsense(url, "sent an error message that makes no sense")
    text = reader.read(size).decode("utf-8", "replace")[:300]
    if "no space left" in text.lower() or "quota exceeded" in text.lower():
        return DeviceFull(f"{what} on {url}: it is full", why=text, fix="free some room on the device, then run again")
    return DeviceError(
        f"{what} on {url}", why=text, fix="check that the path exists and that the device's shell user may use it"
    )


def _stalled(url: str, remote: str) -> DeviceTimeout:
    return DeviceTimeout(
        f"the transfer of {remote} on {url} stands still",
        why=f"the device is there, but moves nothing for {_STALL_S:.0f} s",
        fix="restart the device, then run again",
    )
