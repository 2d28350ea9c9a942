"""The bytes under an SSH connection: how they travel, and whether anything still answers at the other end."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import paramiko

from edgeopt.devices.ssh_config import Settings
from edgeopt.errors import Unreachable

CONNECT_S = 15.0
QUIET_S = 5.0
"""After so many seconds without a byte from the device it is asked whether it is there."""
DEAD_S = 25.0
"""After so many it is held for dead: with what it takes to notice, less than the 30 s of :class:`base.Transport`."""
SEND_BUFFER_BYTES = 512 * 1024
"""Bounded, so that what the socket takes says what the link carries; the speed on a local network needs no more."""
CARRIED_BYTES = 16 * 1024
"""More than all keepalives of ``DEAD_S`` seconds: only a link that carries data away takes so much."""

LOG_BYTES = 2000


class Pipe(Protocol):
    """What paramiko needs below itself: a socket, or a channel through another connection."""

    def send(self, data: bytes, /) -> int: ...
    def recv(self, count: int, /) -> bytes: ...
    def close(self) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...


class Link:
    """A pipe that knows when it last carried something."""

    def __init__(self, pipe: Pipe) -> None:
        self.carried_at = time.monotonic()
        self._pipe = pipe
        self._sent = 0
        self.ended = False
        """The other end has closed it, or it has failed. paramiko's transport notices that only a while later."""
        self._closing = threading.Lock()
        self._closed = False  # paramiko reads it under this name

    def send(self, data: bytes) -> int:
        """As a socket's."""
        try:
            count = self._pipe.send(data)
        except TimeoutError:
            raise
        except OSError:
            self.ended = True
            raise
        self._sent += count
        if self._sent >= CARRIED_BYTES:
            self._sent = 0
            self.carried_at = time.monotonic()
        return count

    def recv(self, count: int) -> bytes:
        """As a socket's."""
        try:
            data = self._pipe.recv(count)
        except TimeoutError:
            raise
        except OSError:
            self.ended = True
            raise
        self.ended = self.ended or not data
        if data:
            self._sent = 0
            self.carried_at = time.monotonic()
        return data

    def settimeout(self, seconds: float | None) -> None:
        """As a socket's."""
        self._pipe.settimeout(seconds)

    def close(self) -> None:
        """Also while another thread reads or writes."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._pipe.close()

    def explain(self) -> str:
        """What the pipe itself said of its failure, or nothing; for a closed link."""
        return self._pipe.explain() if isinstance(self._pipe, _CommandPipe) else ""


class Watchdog:
    """Asks a quiet device whether it is there, and calls ``on_dead`` once when nothing is heard for ``DEAD_S`` seconds.

    paramiko's own keepalive wants no answer, so that it never notices a link on which packets are lost without a word.
    """

    def __init__(self, transport: paramiko.Transport, link: Link, on_dead: Callable[[], None]) -> None:
        self._transport, self._link, self._on_dead = transport, link, on_dead
        self._quiet_s, self._dead_s = QUIET_S, DEAD_S
        self._ended = threading.Event()
        link.carried_at = time.monotonic()
        # Two threads, since asking blocks where the link takes no more bytes.
        for work in (self._ask, self._watch):
            threading.Thread(target=work, name=f"ssh {work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Without waiting for its threads."""
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(self._left(self._quiet_s)) and self._transport.is_active():
            if self._left(self._quiet_s) <= 0:
                try:
                    self._transport.global_request("keepalive@openssh.com", wait=True)
                except (paramiko.SSHException, EOFError, OSError):
                    return

    def _watch(self) -> None:
        while not self._ended.wait(max(self._left(self._dead_s), 0.1)) and self._transport.is_active():
            if self._left(self._dead_s) <= 0:
                self._on_dead()
                return

    def _left(self, seconds: float) -> float:
        return self._link.carried_at + seconds - time.monotonic()


def tcp_link(settings: Settings) -> Link:
    """A TCP connection. Raises Unreachable."""
    what = f"{settings} cannot be reached"
    try:
        connection = socket.create_connection((settings.host, settings.port), timeout=CONNECT_S)
    except socket.gaierror as error:
        fix = "check the name, or give the address"
        raise Unreachable(what, why=f"no address is known for {settings.host!r}: {error.strerror}", fix=fix) from error
    except TimeoutError as error:
        why, fix = f"nothing answered in {CONNECT_S:g} s", "check that it is switched on and in this network"
        raise Unreachable(what, why=why, fix=fix) from error
    except ConnectionRefusedError as error:
        why, fix = (
            f"nothing listens on port {settings.port} there",
            "switch its SSH server on, or give its port: ssh://user@host:port",
        )
        raise Unreachable(what, why=why, fix=fix) from error
    except OSError as error:
        raise Unreachable(what, why=error.strerror or str(error), fix="check the network and the address") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return Link(connection)


def command_link(command: str) -> Link:
    """The standard streams of a ProxyCommand."""
    return Link(_CommandPipe(command))


class _CommandPipe:
    """A running shell command as a pipe. paramiko's own ProxyCommand knows no shell, and spins when the command ends."""

    def __init__(self, command: str) -> None:
        self._near, far = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  until close; a pipe for it that nobody reads would block the command
        self._said = ""
        shell = ["/bin/sh", "-c", f"exec {command}"]
        with far:
            streams = far.fileno()
            self._process = subprocess.Popen(shell, stdin=streams, stdout=streams, stderr=self._log, start_new_session=True)

    def send(self, data: bytes) -> int:
        return self._near.send(data)

    def recv(self, count: int) -> bytes:
        return self._near.recv(count)

    def settimeout(self, seconds: float | None) -> None:
        self._near.settimeout(seconds)

    def close(self) -> None:
        self._near.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with self._log:
            self._log.seek(0)
            self._said = self._log.read(LOG_BYTES).decode(errors="replace").strip()

    def explain(self) -> str:
        """What the command said on standard error; known once it is closed."""
        return self._said
