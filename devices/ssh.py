"""Devices over SSH: ``ssh://user@host:port``, with the user's own SSH configuration, keys, agent, jump hosts and known hosts.

ssh_config   where the URL leads           ssh_hosts   whether the server is the known one
ssh_link     bytes and the watchdog        ssh_auth    who we are
ssh_connection   all of these together     sftp        files
"""

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import BinaryIO

import paramiko

from edgeopt.devices import sftp, ssh_connection
from edgeopt.devices.base import MAX_OUTPUT_BYTES, QUICK_S, Ask, Finished, OnBytes, OnOutput, Transport
from edgeopt.devices.drain import Drain
from edgeopt.devices.refusals import check_name, large_file, no_room, short_file, shown, unusable_file
from edgeopt.devices.ssh_config import parse_url
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout, EdgeoptError

STALL_S = 60.0
"""A device that answers, but takes no byte of a file for so long, has a disk that hangs."""
BUSY_S, BUSY_STEP_S = 2.0, 0.05
"""How long, and how often, a session is asked for that the server has no room for."""
PIECE_BYTES = 64 * 1024
LITTLE_BYTES = 1024**2
"""With less room than this a failed write is put down to the full disk: SFTP itself says only "Failure"."""
_DF = re.compile(rb"\s[1-9]\d*\s+\d+\s+(-?\d+)\s+\d*[%-]")


def connect(url: str, ask: Ask | None = None) -> Transport:
    """Opens ``url``; ``ask`` is asked for a password or a key's passphrase, where one is needed.

    Raises UsageError for a wrong URL, ConfigError for the SSH configuration, Unreachable, HostKeyRefused, NotAuthorized.
    """
    return SshTransport(url, ssh_connection.connect(parse_url(url), ask))


class SshTransport:
    """Every operation has an SSH channel of its own; a server allows ten at once unless told otherwise (MaxSessions)."""

    can_resume = True

    def __init__(self, url: str, connections: Sequence[ssh_connection.Connection]) -> None:
        self.url = url
        self._connections = connections
        self._device = connections[-1]

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
        with self._channel(drain.left_s(), drain.timed_out) as channel:
            with self._failures(drain.timed_out), _at_most(drain.left_s(), channel):
                channel.exec_command(command_line(command))
                channel.shutdown_write()
            self._read(channel, drain)
            if (code := channel.recv_exit_status()) < 0:
                raise self._cut_off(command)
            return drain.finished(code)

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
        ssh_connection.close_all(self._connections)

    def _read(self, channel: paramiko.Channel, drain: Drain) -> None:
        """Both streams as they come: one that is left unread would fill the window and block the other.

        Not by the channel's file descriptor: paramiko's thread may still write to it after the channel has been closed here,
        which ends the whole connection, or writes to whatever file has the number then (paramiko/pipe.py, PosixPipe).
        """
        arrived = threading.Event()
        for stream in (channel.in_buffer, channel.in_stderr_buffer):
            stream.set_event(arrived)
        while True:
            ended = channel.closed or channel.eof_received
            if channel.recv_ready():
                drain.out(channel.recv(PIECE_BYTES))
            elif channel.recv_stderr_ready():
                drain.err(channel.recv_stderr(PIECE_BYTES))
            elif ended and (channel.closed or channel.exit_status_ready()):
                return
            elif ended:
                channel.status_event.wait(min(drain.left_s(), 0.2))
            else:
                arrived.wait(drain.left_s())
            drain.left_s()

    def _cut_off(self, command: Sequence[str]) -> EdgeoptError:
        if self._device.ended:
            return self._device.lost()
        what = f"{shown(shlex.join(command))} ended without an exit code"
        return BadAnswer(what, why="the SSH server closed its channel", fix="look at the SSH server's log there")

    @contextmanager
    def _channel(self, timeout_s: float, late: Callable[[], DeviceTimeout]) -> Iterator[paramiko.Channel]:
        with self._failures(late):
            channel = self._open(timeout_s)
        try:
            yield channel
        finally:
            with suppress(paramiko.SSHException, EOFError, OSError):  # there may be nobody left to tell
                channel.close()

    def _open(self, timeout_s: float) -> paramiko.Channel:
        """A server counts a channel that has just been closed for a while yet: where it allows few, that passes."""
        until = time.monotonic() + min(BUSY_S, timeout_s)
        while True:
            try:
                return self._device.transport.open_session(timeout=timeout_s)
            except paramiko.ChannelException:
                if time.monotonic() > until:
                    raise
                time.sleep(BUSY_STEP_S)

    @contextmanager
    def _sftp(self, remote: str) -> Iterator[sftp.Sftp]:
        check_name(remote)

        def late() -> DeviceTimeout:
            what = f"the SFTP server of {self._device.settings} did not start"
            return DeviceTimeout(what, why=f"it gave no answer in {QUICK_S:g} s", fix="look at the SSH server's log there")

        with self._channel(QUICK_S, late) as channel:
            with self._failures(late), _at_most(QUICK_S, channel):
                channel.invoke_subsystem("sftp")
            channel.settimeout(STALL_S)
            yield sftp.Sftp(_Stream(self, channel, remote))

    @contextmanager
    def _failures(self, late: Callable[[], DeviceTimeout]) -> Iterator[None]:
        """What paramiko raises, as what it means."""
        try:
            yield
        except TimeoutError as error:
            raise late() from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._device.ended:
                raise self._device.lost() from error
            if "Timeout" in str(error):
                raise late() from error
            why = str(error) or type(error).__name__
            fix = "look at the SSH server's log and settings there (MaxSessions, Subsystem sftp)"
            raise DeviceError(f"{self._device.settings} refused or ended a session", why=why, fix=fix) from error

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
    """A channel's bytes for SFTP."""

    def __init__(self, owner: SshTransport, channel: paramiko.Channel, remote: str) -> None:
        self._owner, self._channel, self._remote = owner, channel, remote

    def write(self, data: bytes) -> None:
        with self._owner._failures(self._late):
            self._channel.sendall(data)

    def read(self, count: int) -> bytes:
        pieces = []
        while count:
            with self._owner._failures(self._late):
                piece = self._channel.recv(count)
                if not piece:
                    raise EOFError("the SFTP server ended")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def ready(self) -> bool:
        return bool(self._channel.recv_ready())

    def _late(self) -> DeviceTimeout:
        why = f"the device took or gave no byte for {STALL_S:g} s, though it answers"
        return DeviceTimeout(f"the transfer of {shown(self._remote)} stands still", why=why, fix="look at the disk there")


def command_line(command: Sequence[str]) -> bytes:
    """``command`` for the user's login shell there, every argument quoted.

    A POSIX shell of its own runs it, for ``$?`` means nothing to fish or csh, and waits for it: a signal that ends it is then
    told as 128 + N, while paramiko does not read what SSH says of signals.
    """
    line = shlex.join(["exec", "sh", "-c", '"$@"; exit $?', "sh", *command])
    return line.encode(errors="surrogateescape")


@contextmanager
def _at_most(seconds: float, channel: paramiko.Channel) -> Iterator[None]:
    """paramiko waits for the answer to a request without end: closing the channel ends that. Raises TimeoutError then."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        with suppress(paramiko.SSHException, EOFError, OSError):  # the link may be dead: then nobody waits for it either
            channel.close()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (paramiko.SSHException, OSError) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _refused(done: str, remote: str, refused: sftp.Refused) -> DeviceError:
    causes: dict[int, str] = {
        sftp.Code.NO_SUCH_FILE: "it, or its folder, is not there",
        sftp.Code.PERMISSION_DENIED: "this user may not",
    }
    return unusable_file(done, remote, causes.get(refused.code, str(refused)))
