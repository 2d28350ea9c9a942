"""Devices over SSH: ``ssh://user@host:port``, by OpenSSH's own client: what ``ssh`` accepts, edgeopt accepts.

ssh_config   where the URL leads                 ssh_client      the process that holds a connection
ssh_said     what the client means by its words  ssh_questions   what it asks the user
ssh_hosts    host keys that it refuses           ssh_mux         sessions over the connection
ssh_pool     connections, as many as are needed  ssh_command     one command line for every login shell
sftp         files                               ssh_folder      where the sockets are
"""

import os
import re
import select
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from edgeopt.devices.drain import Drain
from edgeopt.devices.refusals import check_name, large_file, no_room, short_file, shown, shown_command, unusable_file
from edgeopt.devices.ssh import sftp
from edgeopt.devices.ssh.command import Line, Marked
from edgeopt.devices.ssh.config import parse_url, resolve
from edgeopt.devices.ssh.mux import Ended, MuxSession
from edgeopt.devices.ssh.pool import Pool
from edgeopt.devices.ssh.questions import Answers
from edgeopt.devices.transport import MAX_OUTPUT_BYTES, QUICK_S, Ask, Finished, OnBytes, OnOutput, Transport, text
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout

STALL_S = 60.0
"""A device that answers, but takes no byte of a file for so long, has a disk that hangs."""
CLOSE_S = 1.0
"""For the server to close a session that is over. Closing first ends the whole connection with Dropbear."""
PIECE_BYTES = 64 * 1024
BUFFER_BYTES = 1024**2
SAID_CHARACTERS = 300
LITTLE_BYTES = 1024**2
"""With less room than this a failed write is put down to the full disk: SFTP itself says only "Failure"."""
_DF = re.compile(rb"\s[1-9]\d*\s+\d+\s+(-?\d+)\s+\d*[%-]")


def connect(url: str, ask: Ask | None = None) -> Transport:
    """Opens ``url``; ``ask`` is asked for a password or a key's passphrase, where one is needed.

    Raises UsageError for a wrong URL, ConfigError for the SSH configuration, Unreachable, HostKeyRefused, NotAuthorized,
    DeviceError where OpenSSH's client is missing.
    """
    return SshTransport(url, Pool(resolve(parse_url(url)), Answers(ask)))


class SshTransport:
    """Every operation has an SSH session of its own."""

    can_resume = True

    def __init__(self, url: str, pool: Pool) -> None:
        self.url = url
        self._pool = pool

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
        line = Line(command)
        with closing(_Pipe()) as out, closing(_Pipe()) as err, ExitStack() as stack:
            with _nothing() as nothing:
                streams = (nothing, out.theirs, err.theirs)
                session = stack.enter_context(self._session(line.text, streams, drain.left_s(), drain.timed_out))
            out.hand_over()
            err.hand_over()
            said = Marked(line.mark, drain.out), Marked(line.mark, drain.err)
            try:
                _read(session, {out.ours: said[0], err.ours: said[1]}, drain)
            except DeviceTimeout as late:
                raise late if said[0].begun else self._not_started(late, said) from late
            if session.exit_code is None:
                raise Ended(f"{shown_command(command)} ended without an exit code")
            if not said[0].begun:
                raise self._not_run(session.exit_code, said)
            session.finish(CLOSE_S)
            return drain.finished(session.exit_code)

    def send(self, source: BinaryIO, remote: str, *, offset: int = 0, on_bytes: OnBytes | None = None) -> None:
        """See :class:`Transport`."""
        flags = sftp.WRITE if offset else sftp.WRITE | sftp.CREATE | sftp.TRUNCATE
        try:
            with self._sftp(remote) as files:
                handle = files.open(remote, flags)
                if offset:
                    if (files.size(handle) or 0) < offset:
                        raise short_file(remote, offset)
                    files.truncate(handle, offset)
                files.write(handle, source, offset, on_bytes)
                files.close(handle)
        except sftp.Refused as refused:
            raise self._not_written(remote, refused) from refused

    def fetch(self, remote: str, sink: BinaryIO, *, limit: int) -> None:
        """See :class:`Transport`."""
        try:
            with self._sftp(remote) as files:
                handle = files.open(remote, sftp.READ)
                if not files.read(handle, sink, limit):
                    raise large_file(remote, limit)
                files.close(handle)
        except sftp.Refused as refused:
            raise _refused("read", remote, refused) from refused

    def close(self) -> None:
        """See :class:`Transport`."""
        self._pool.close()

    @contextmanager
    def _session(
        self, command: bytes, streams: Sequence[int], seconds: float, late: Callable[[], DeviceTimeout], subsystem: bool = False
    ) -> Iterator[MuxSession]:
        with ExitStack() as stack:
            try:
                opened = self._pool.session(command, streams, subsystem=subsystem, seconds=seconds)
                session = stack.enter_context(opened)
            except TimeoutError as error:
                raise late() from error
            yield session

    @contextmanager
    def _sftp(self, remote: str) -> Iterator[sftp.Sftp]:
        check_name(remote)

        def late() -> DeviceTimeout:
            what = f"the SFTP server of {self._pool.settings} did not start"
            return DeviceTimeout(what, why=f"it gave no answer in {QUICK_S:g} s", fix="look at the SSH server's log there")

        def stuck() -> DeviceTimeout:
            why = f"the device took or gave no byte for {STALL_S:g} s, though it answers"
            return DeviceTimeout(f"the transfer of {shown(remote)} stands still", why=why, fix="look at the disk there")

        with ExitStack() as stack:
            near, far = map(stack.enter_context, socket.socketpair())
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            with _nothing() as nothing:
                streams = (far.fileno(), far.fileno(), nothing)
                session = stack.enter_context(self._session(b"sftp", streams, QUICK_S, late, subsystem=True))
            far.close()
            stream = _Stream(near, QUICK_S, late)
            try:
                files = sftp.Sftp(stream)
            except (EOFError, ConnectionError) as error:  # it ended before it answered, or before it was asked
                raise Ended("the SFTP server did not start") from error
            stream.wait(STALL_S, stuck)
            try:
                yield files
            finally:
                near.shutdown(socket.SHUT_RDWR)
                session.finish(CLOSE_S)

    def _not_started(self, late: DeviceTimeout, said: Sequence[Marked]) -> DeviceTimeout:
        noise = text(b"".join(stream.noise for stream in said)).strip()[-SAID_CHARACTERS:]
        why = f"{late.why}, and had not begun: the login shell's start-up files may wait for something"
        why += f"; they said {shown(noise)}" if noise else ""
        return DeviceTimeout(late.what, why=why, fix="look at these files there (.bashrc, .profile, .cshrc), and at its load")

    def _not_run(self, exit_code: int, said: Sequence[Marked]) -> DeviceError:
        noise = text(b"".join(stream.noise for stream in said)).strip()[-SAID_CHARACTERS:]
        why = f"it ended with exit code {exit_code} before the command: {shown(noise) if noise else 'it said nothing'}"
        fix = "give the user a shell there (chsh), and see that its start-up files (.bashrc, .cshrc) do not end it"
        kind = DeviceError if exit_code else BadAnswer  # it says that all went well
        return kind(f"the login shell of {self._pool.settings} runs no command", why=why, fix=fix)

    def _not_written(self, remote: str, refused: sftp.Refused) -> DeviceError:
        if refused.code == sftp.Code.FAILURE and (free := self._free_bytes(remote)) is not None and free < LITTLE_BYTES:
            return no_room(remote, f"its disk has {free} bytes left there")
        return _refused("written", remote, refused)

    def _free_bytes(self, remote: str) -> int | None:
        folder = str(PurePosixPath(remote).parent)
        finished = self.run(["df", "-Pk", "./" + folder if not folder.startswith("/") else folder], timeout_s=QUICK_S)
        found = _DF.search(finished.stdout)
        return int(found[1]) * 1024 if finished.exit_code == 0 and found else None


class _Stream:
    """A socket's bytes for SFTP."""

    def __init__(self, near: socket.socket, seconds: float, late: Callable[[], DeviceTimeout]) -> None:
        self._near = near
        self.wait(seconds, late)

    def wait(self, seconds: float, late: Callable[[], DeviceTimeout]) -> None:
        """From now on: so long for some bytes to go or come, and what to raise then."""
        self._near.settimeout(seconds)
        self._late = late

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._near.send(left) :]
        except TimeoutError as error:
            raise self._late() from error

    def read(self, count: int) -> bytes:
        pieces = bytearray()
        try:
            while len(pieces) < count:
                piece = self._near.recv(count - len(pieces))
                if not piece:
                    raise EOFError("the SFTP server ended")
                pieces += piece
        except TimeoutError as error:
            raise self._late() from error
        return bytes(pieces)

    def ready(self) -> bool:
        return bool(select.select([self._near], [], [], 0)[0])


class _Pipe:
    """For one stream of a command: ``theirs`` is to be written to, ``ours`` to be read."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe()
        self._open = [self.ours, self.theirs]

    def hand_over(self) -> None:
        """Closes our copy of their end: the stream is at its end when theirs is closed."""
        self._open.remove(self.theirs)
        os.close(self.theirs)

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


@contextmanager
def _nothing() -> Iterator[int]:
    """No standard input, or an output that nobody wants."""
    number = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def _read(session: MuxSession, streams: dict[int, Marked], drain: Drain) -> None:
    """Both streams as they come, until they and the command have ended: one that is left unread would block the other."""
    with selectors.DefaultSelector() as ready:
        ready.register(session.control, selectors.EVENT_READ)
        for number in streams:
            ready.register(number, selectors.EVENT_READ)
        left = set(streams)
        while left or (session.exit_code is None and not session.over):
            for key, _ in ready.select(drain.left_s()):
                if key.fd not in streams:
                    session.heed()
                elif piece := os.read(key.fd, PIECE_BYTES):
                    streams[key.fd](piece)
                    continue
                else:
                    left.remove(key.fd)
                if key.fd in streams or session.over:
                    ready.unregister(key.fileobj)
            drain.left_s()


def _refused(done: str, remote: str, refused: sftp.Refused) -> DeviceError:
    causes: dict[int, str] = {
        sftp.Code.NO_SUCH_FILE: "it, or its folder, is not there",
        sftp.Code.PERMISSION_DENIED: "this user may not",
    }
    return unusable_file(done, remote, causes.get(refused.code, str(refused)))
