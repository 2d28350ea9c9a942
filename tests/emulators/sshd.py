"""A real OpenSSH server on loopback, with keys, port and configuration of its own, for one test or one module."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.devices.transport import Transport

SSHD = Path("/usr/sbin/sshd")
HOST = "127.0.0.1"


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on just now."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        return int(server.getsockname()[1])


def make_key(file: Path, key_type: str = "ed25519", passphrase: str = "") -> Path:
    """A key pair: ``file`` and ``file.pub``."""
    subprocess.run(["ssh-keygen", "-q", "-t", key_type, "-N", passphrase, "-C", "test", "-f", str(file)], check=True)
    return file


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. ``authorized`` holds the public keys that it lets in; ``key`` is one of them."""

    port: int
    folder: Path
    key: Path
    host_keys: tuple[Path, ...]
    host: str = HOST

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{getpass.getuser()}@{host}:{self.port}"

    @property
    def authorized(self) -> Path:
        return self.folder / "authorized_keys"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def known_lines(self, name: str = "") -> str:
        """What a file of known hosts says of it."""
        name = name or f"[{self.host}]:{self.port}"
        keys = [key.with_suffix(".pub").read_text().split() for key in self.host_keys]
        return "".join(f"{name} {key[0]} {key[1]}\n" for key in keys)

    def client_config(self, file: Path, *lines: str, known: str | None = None, key: bool = True) -> Path:
        """An ssh_config that uses nothing of the user's own: ``key``, and as known hosts ``known`` (the server's own keys)."""
        known_hosts = file.with_name(f"{file.name}.known_hosts")
        known_hosts.write_text(self.known_lines() if known is None else known)
        own = [
            f"UserKnownHostsFile {known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "IdentitiesOnly yes",
            "IdentityAgent none",
        ]
        file.write_text("\n".join([*lines, "Host *", *own, *([f"IdentityFile {self.key}"] if key else [])]) + "\n")
        return file


@contextmanager
def connected(server: Server, folder: Path) -> Iterator[Transport]:
    """edgeopt's own connection to ``server``, with its configuration in ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(server.client_config(folder / "ssh_config")))
        transport = ssh.connect(server.url)
    yield transport
    transport.close()


@contextmanager
def sshd(
    folder: Path, *settings: str, host: str = HOST, host_keys: Sequence[str] = ("ed25519",), sftp: str = "internal-sftp"
) -> Iterator[Server]:
    """A server in ``folder``, with these lines in its sshd_config. Skips the test where there can be none."""
    if not SSHD.exists() or shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH's server is not installed (Debian: apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as root it wants its folder, which the system's service makes otherwise
    folder.mkdir(parents=True, exist_ok=True)
    keys = tuple(make_key(folder / f"host_{key_type}", key_type) for key_type in host_keys)
    key = make_key(folder / "key")
    server = Server(port=free_port(host), folder=folder, key=key, host_keys=keys, host=host)
    server.authorized.write_text(key.with_suffix(".pub").read_text())
    config = [
        *settings,
        f"Port {server.port}",
        f"ListenAddress {host}",
        *(f"HostKey {key}" for key in keys),
        f"AuthorizedKeysFile {server.authorized}",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PermitRootLogin yes",
        "LogLevel VERBOSE",
        f"SetEnv HOME={folder}",  # no start-up files of whoever runs the tests
        f"Subsystem sftp {sftp}",
    ]
    (folder / "sshd_config").write_text("\n".join(config) + "\n")
    command = [str(SSHD), "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for_banner(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _wait_for_banner(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, server.log
        with suppress(OSError), socket.create_connection((server.host, server.port), timeout=5) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd gave no banner: {server.log}")


@contextmanager
def asking_server(interface: paramiko.ServerInterface, key: Path) -> Iterator[str]:
    """The URL of a server in this process, for one connection: for what OpenSSH's own cannot be made to do."""
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(key)))
            transport.start_server(server=interface, event=threading.Event())
            transports.append(transport)

        transports: list[paramiko.Transport] = []
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"ssh://anna@{HOST}:{listening.getsockname()[1]}"
        thread.join()
        transports[0].close()


class Proxy:
    """Forwards TCP connections to a port, until it is told to lose them: with a word (cut) or without one (silence)."""

    def __init__(self, port: int, bytes_per_s: float = float("inf"), buffer_bytes: int | None = None) -> None:
        self.bytes_per_s, self.cut_at = bytes_per_s, float("inf")
        """How fast each direction is, and the value of ``forwarded`` at which connections end; both may be set at any time."""
        self._target = port
        self._silent = threading.Event()
        self._server = socket.create_server((HOST, 0))
        if buffer_bytes is not None:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._connections: list[socket.socket] = []
        self.port = int(self._server.getsockname()[1])
        self.forwarded = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """From now on nothing is forwarded, and nobody is told."""
        self._silent.set()

    def cut(self) -> None:
        """Ends every connection."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends everything."""
        self._silent.set()
        self._server.close()
        self.cut()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection((HOST, self._target))
                self._connections += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(16384 if self.bytes_per_s >= 1e6 else 1400)) and not self._silent.is_set():
                sink.sendall(data)
                time.sleep(len(data) / self.bytes_per_s)
                self.forwarded += len(data)
                if self.forwarded >= self.cut_at:
                    self.cut_at = float("inf")
                    self.cut()
            if not self._silent.is_set():
                sink.shutdown(socket.SHUT_WR)
