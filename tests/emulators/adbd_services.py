"""What the emulated adbd offers: commands (``shell:``, ``exec:``, ``shell,v2``) and files (``sync:``).

Formats: packages/modules/adb/SERVICES.TXT, SYNC.TXT, shell_protocol.h and file_sync_protocol.h of the Android source.
"""

import errno
import os
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.emulators.adbd import Adbd
from tests.emulators.adbd_link import Cut, Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
SYNC_DATA_MAX = 64 * 1024


def service(adbd: Adbd, name: str) -> Callable[[Stream], None] | None:
    """What serves ``name``, or None where a daemon of these features refuses it."""
    kind, _, rest = name.partition(":")
    if kind == "sync":
        return _Files(adbd).serve
    if kind in ("shell", "exec"):
        return lambda stream: _Command(adbd, rest, stream).merged()
    if kind.split(",")[:2] == ["shell", "v2"] and "shell_v2" in adbd.features:
        return lambda stream: _Command(adbd, rest, stream).separate()
    return None


class _Command:
    def __init__(self, adbd: Adbd, command: str, stream: Stream) -> None:
        self._adbd, self._stream, self._writing = adbd, stream, threading.Lock()
        argv = [*adbd.prefix, "sh", *(["-c", command] if command else [])]
        self._argv: list[str | bytes] = [os.fsencode(part) for part in argv]
        self._environment = adbd.environment()

    def merged(self) -> None:
        """Output and errors in one stream, with no exit code: the old protocol."""
        process = self._start(subprocess.STDOUT)
        pumps = [self._pump(process.stdout, None)]
        self._feed(process, self._merged_input)
        self._finish(process, pumps)

    def separate(self) -> None:
        """The shell protocol, version 2."""
        process = self._start(subprocess.PIPE)
        pumps = [self._pump(process.stdout, STDOUT), self._pump(process.stderr, STDERR)]
        self._feed(process, self._separate_input)
        code = self._finish(process, pumps)
        with suppress(Cut):
            self._stream.write(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))

    def _start(self, errors: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )

    def _pump(self, source: IO[bytes] | None, kind: int | None) -> threading.Thread:
        assert source is not None

        def work() -> None:
            with suppress(Cut):
                while data := os.read(source.fileno(), 1 << 16):
                    head = b"" if kind is None else struct.pack("<BI", kind, len(data))
                    with self._writing:
                        self._stream.write(head + data)

        return self._adbd.work(work)

    def _feed(self, process: "subprocess.Popen[bytes]", work: Callable[[IO[bytes]], None]) -> None:
        assert process.stdin is not None
        given = process.stdin

        def feed() -> None:
            with suppress(BrokenPipeError, Cut, ValueError):
                work(given)
            with suppress(BrokenPipeError):
                given.close()
            if self._stream.ended:  # as shell_service.cpp does where the client goes away
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGHUP)

        self._adbd.work(feed)

    def _merged_input(self, given: IO[bytes]) -> None:
        while data := self._stream.read():
            given.write(data)
            given.flush()

    def _separate_input(self, given: IO[bytes]) -> None:
        buffer = b""
        while data := self._stream.read():
            buffer += data
            while len(buffer) >= 5 and len(buffer) >= 5 + (size := int.from_bytes(buffer[1:5], "little")):
                kind, content, buffer = buffer[0], buffer[5 : 5 + size], buffer[5 + size :]
                if kind == CLOSE_STDIN:
                    given.close()
                elif kind == STDIN:
                    given.write(content)
                    given.flush()

    def _finish(self, process: "subprocess.Popen[bytes]", pumps: list[threading.Thread]) -> int:
        for pump in pumps:
            pump.join()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
        code = process.wait()
        with suppress(OSError, ValueError):
            assert process.stdin is not None
            process.stdin.close()
        return code


class _Files:
    def __init__(self, adbd: Adbd) -> None:
        self._adbd, self._buffer = adbd, b""

    def serve(self, stream: Stream) -> None:
        self._stream = stream
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            if kind == b"QUIT":
                return
            assert size <= 1024, "paths are at most 1,024 bytes long"
            path = os.fsdecode(self._exactly(size))
            {b"STAT": self._stat, b"STA2": self._stat_v2, b"LST2": self._lstat_v2, b"LIST": self._list}.get(
                kind, {b"SEND": self._send, b"RECV": self._recv}.get(kind, self._unknown)
            )(path)

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._stream.read()
            if not data:
                raise Cut
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _below(self, path: str) -> Path:
        return self._adbd.root / path.lstrip("/")

    def _fail(self, text: str) -> None:
        self._stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text.encode())

    def _unknown(self, path: str) -> None:
        self._fail("unknown command")
        raise Cut

    def _stat(self, path: str) -> None:
        mode = size = changed = 0
        with suppress(OSError):
            found = self._below(path).lstat()
            mode, size, changed = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)
        self._stream.write(struct.pack("<4s3I", b"STAT", mode, size, changed))

    def _stat_v2(self, path: str, kind: bytes = b"STA2", follow: bool = True) -> None:
        try:
            found = self._below(path).stat(follow_symlinks=follow)
        except OSError as error:
            return self._stream.write(struct.pack("<4sI64x", kind, error.errno or errno.EIO))
        times = [int(time) for time in (found.st_atime, found.st_mtime, found.st_ctime)]
        ids = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
        self._stream.write(struct.pack("<4sI2Q4IQ3q", kind, 0, *ids, *times))

    def _lstat_v2(self, path: str) -> None:
        self._stat_v2(path, b"LST2", follow=False)

    def _list(self, path: str) -> None:
        with suppress(OSError):
            for entry in os.scandir(self._below(path)):
                found, name = entry.stat(follow_symlinks=False), os.fsencode(entry.name)
                head = struct.pack("<4s4I", b"DENT", found.st_mode, found.st_size, int(found.st_mtime), len(name))
                self._stream.write(head + name)
        self._stream.write(struct.pack("<4s16x", b"DONE"))

    def _send(self, request: str) -> None:
        path, _, mode = request.rpartition(",")
        target = self._below(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink() or target.exists():
                target.unlink()
            with target.open("xb") as file:
                self._receive_file(file)
                os.fchmod(file.fileno(), stat.S_IMODE(int(mode)))
                if self._adbd.owner:
                    os.fchown(file.fileno(), *self._adbd.owner)
        except OSError as error:
            what = "write failed" if error.errno == errno.ENOSPC else "couldn't create file"
            self._fail(f"{what}: {os.strerror(error.errno or errno.EIO)}")
            with suppress(OSError):
                target.unlink()
            self._drain()
        except Cut:
            target.unlink(missing_ok=True)
            raise
        else:
            self._stream.write(struct.pack("<4sI", b"OKAY", 0))

    def _receive_file(self, file: IO[bytes]) -> None:
        written = 0
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            if kind == b"DONE":
                return
            assert kind == b"DATA" and size <= SYNC_DATA_MAX, (kind, size)
            written += size
            data = self._exactly(size)
            if self._adbd.faults.full_after is not None and written > self._adbd.faults.full_after:
                raise OSError(errno.ENOSPC, "full")
            file.write(data)

    def _drain(self) -> None:
        # As file_sync_service.cpp: what still comes is thrown away until the client has seen the failure.
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            if kind != b"DATA":
                return
            self._exactly(size)

    def _recv(self, path: str) -> None:
        try:
            with self._below(path).open("rb", buffering=0) as file:
                while data := file.read(SYNC_DATA_MAX):
                    self._stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        except OSError as error:
            return self._fail(f"open failed: {os.strerror(error.errno or errno.EIO)}")
        self._stream.write(struct.pack("<4sI", b"DONE", 0))
