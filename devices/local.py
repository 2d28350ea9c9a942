"""This computer as a device. Relative paths start at the home folder, as they do over SSH."""

import errno
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from edgeopt.devices.drain import Drain
from edgeopt.devices.refusals import check_name, large_file, no_room, short_file, unusable_file
from edgeopt.devices.transport import MAX_OUTPUT_BYTES, NOT_FOUND, Ask, Finished, OnBytes, OnOutput, Transport
from edgeopt.errors import LinkLost

CHUNK_BYTES = 1024**2
NOT_EXECUTABLE = 126
"""What a shell gives as the exit code where it may not run a program."""


def connect(url: str = "local", ask: Ask | None = None) -> Transport:
    """The transport of the URL ``local``; there is nothing to ask for."""
    return LocalTransport()


class LocalTransport:
    """Commands in process groups of their own, so that Ctrl-C here ends edgeopt first, which then ends them in order.

    Unlike a remote device's, a command is killed with its group when its time is over, when it prints too much, and when the
    connection is closed.
    """

    url = "local"
    can_resume = True

    def __init__(self) -> None:
        self._home = Path.home()
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # The end that wakes is closed by close(): every command that is waited for sees the other end become readable.
        self._woken, self._wakes = os.pipe()

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        on_output: OnOutput | None = None,
        limit: int = MAX_OUTPUT_BYTES,
    ) -> Finished:
        """See :class:`Transport`."""
        drain = Drain(command, timeout_s=timeout_s, limit=limit, on_output=on_output)
        try:
            process = self._start(command)
        except FileNotFoundError:
            return Finished(NOT_FOUND, b"", f"{command[0]}: not found\n".encode())
        except OSError as error:
            return Finished(NOT_EXECUTABLE, b"", f"{command[0]}: {error.strerror}\n".encode())
        with process:
            try:
                self._read(process, drain)
                code = process.wait(drain.left_s())
            except subprocess.TimeoutExpired as error:
                raise drain.timed_out() from error
            finally:
                self._end(process)
        self._check_open()
        return drain.finished(code if code >= 0 else 128 - code)

    def send(self, source: BinaryIO, remote: str, *, offset: int = 0, on_bytes: OnBytes | None = None) -> None:
        """See :class:`Transport`."""
        self._check_open()
        check_name(remote)
        with _failures("written", remote):
            file = (self._home / remote).open("r+b" if offset else "wb")
        with file:
            if offset:
                if file.seek(0, os.SEEK_END) < offset:
                    raise short_file(remote, offset)
                file.truncate(offset)
                file.seek(offset)
            while piece := source.read(CHUNK_BYTES):
                self._check_open()
                with _failures("written", remote):
                    file.write(piece)
                    file.flush()
                if on_bytes is not None:
                    on_bytes(len(piece))

    def fetch(self, remote: str, sink: BinaryIO, *, limit: int) -> None:
        """See :class:`Transport`."""
        left = limit
        self._check_open()
        check_name(remote)
        with _failures("read", remote):
            file = (self._home / remote).open("rb")
        with file:
            while True:
                with _failures("read", remote):
                    piece = file.read(min(CHUNK_BYTES, left + 1))
                self._check_open()
                if not piece:
                    return
                if len(piece) > left:
                    raise large_file(remote, limit)
                sink.write(piece)
                left -= len(piece)

    def close(self) -> None:
        """See :class:`Transport`."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            os.close(self._wakes)
            for group in self._groups:
                _kill(group)

    def __del__(self) -> None:
        self.close()
        os.close(self._woken)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            self._check_open()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._home if os.access(self._home / ".", os.X_OK) else "/",  # as sshd does
                start_new_session=True,
            )
            self._groups.add(process.pid)
            return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kills the group of a command that has not ended; one that has may have left processes on purpose (a daemon)."""
        with self._lock:
            self._groups.discard(process.pid)
            if process.poll() is None:
                _kill(process.pid)

    def _read(self, process: subprocess.Popen[bytes], drain: Drain) -> None:
        with selectors.DefaultSelector() as selector:
            for stream, take in ((process.stdout, drain.out), (process.stderr, drain.err)):
                selector.register(_pipe(stream), selectors.EVENT_READ, take)
            selector.register(self._woken, selectors.EVENT_READ)
            while len(selector.get_map()) > 1:
                for key, _ in selector.select(drain.left_s()):
                    self._check_open()
                    piece = os.read(key.fd, CHUNK_BYTES)
                    if piece:
                        key.data(piece)
                    else:
                        selector.unregister(key.fileobj)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise LinkLost("the connection to this computer is closed", why="it was closed here", fix="connect again")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # it has ended; PermissionError is what macOS says of a zombie


@contextmanager
def _failures(done: str, remote: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(remote, why) from error
        raise unusable_file(done, remote, why) from error
