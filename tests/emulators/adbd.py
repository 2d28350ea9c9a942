"""An adbd for the tests: the daemon's wire protocol on a real socket, with real RSA checks, and faults to order.

    with Adbd(root=folder, prefix=["chroot", folder]) as adbd:
        connect(f"adb://{adbd.address}", ask)

``python -m tests.emulators.adbd`` is one in a process of its own: prints its address, ends with its standard input.

Protocol: packages/modules/adb/protocol.txt and daemon/auth.cpp of the Android source. Services stand in adbd_services.py.
"""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.emulators.adbd_link import SKIPS_CHECKSUMS, Connection, public_key

MIB = 1024 * 1024
FEATURES = ("shell_v2", "cmd", "stat_v2", "fixed_push_mkdir")


@dataclass
class Faults:
    """What goes wrong. Each may be set while connections are open."""

    cut_after_received: int | None = None
    """Bytes taken from a client, over all connections, after which every link is cut."""
    cut_after_sent: int | None = None
    silent: threading.Event = field(default_factory=threading.Event)
    """Links stay open, and nothing is read or written any more."""
    bytes_per_second: float | None = None
    """How fast the daemon reads."""
    full_after: int | None = None
    """Bytes of a file after which the disk is full."""
    garbage: bool = False
    """Answers with bytes that are no packets."""
    rude: bool = False
    """Sends without waiting for the other side's consent."""


class Adbd:
    """One device. File paths are resolved below ``root``; commands run as ``[*prefix, "sh", "-c", COMMAND]``.

    ``keys``: public keys (the text of adbkey.pub) that may connect; None lets everybody in, as an emulator does.
    ``owner``: user and group that files get which are sent, where commands run as another user than the tests.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        prefix: Sequence[str] = (),
        *,
        keys: Sequence[bytes] | None = None,
        version: int = SKIPS_CHECKSUMS,
        maxdata: int = MIB,
        features: Sequence[str] = FEATURES,
        state: str = "device",
        tls: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.root, self.prefix, self.owner = root, list(prefix), owner
        self.version, self.maxdata, self.features, self.state, self.tls = version, maxdata, tuple(features), state, tls
        self.keys = None if keys is None else [public_key(key) for key in keys]
        self.faults = Faults()
        self.offered: list[bytes] = []
        self.received = self.sent = 0
        self.services: list[str] = []
        self.mark = f"EDGEOPT_ADBD={secrets.token_hex(8)}"
        self._accepted = threading.Event()
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()
        self.cut()
        self.kill_processes()
        for thread in self._threads:
            thread.join()

    def connections(self) -> int:
        """How many links are open."""
        with self._lock:
            return len(self._connections)

    def accept_offered(self) -> None:
        """The user taps "Allow": the keys that clients have offered may connect, waiting ones at once."""
        assert self.keys is not None
        self.keys += [public_key(key) for key in self.offered]
        self._accepted.set()

    def cut(self) -> None:
        """Every link ends at once, without a goodbye."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()
        for connection in connections:
            connection.join()

    def reboot(self, down_s: float = 0.2) -> None:
        """All links end, all processes die, nobody can connect for ``down_s`` seconds; files stay."""
        self._stop_listening()
        self.cut()
        self.kill_processes()
        time.sleep(down_s)
        self._listener = self._listen(self.port)

    def processes(self) -> list[int]:
        """Processes that its commands left or still run, whatever session they moved to."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes() and (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def kill_processes(self) -> None:
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)

    def environment(self) -> dict[str, str]:
        """Of its commands: what a shell needs, and the mark by which they are found again."""
        name, value = self.mark.split("=")
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", name: value}

    def banner(self) -> bytes:
        properties = "ro.product.name=emulated;ro.product.model=Emulated;ro.product.device=emulated"
        features = f";features={','.join(self.features)}" if self.features else ";"
        return f"{self.state}::{properties}{features}".encode()

    def work(self, task: Callable[[], None]) -> threading.Thread:
        """A thread that does ``task``; it ends with the daemon at the latest."""
        thread = threading.Thread(target=task, name="adbd-service", daemon=True)
        with self._lock:
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            thread.start()
        return thread

    def left(self, connection: "Connection") -> None:
        with self._lock:
            self._connections.discard(connection)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), name="adbd", daemon=True).start()
        return listener

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, link, self._accepted)
            with self._lock:
                self._connections.add(connection)
            connection.start()


if __name__ == "__main__":
    with Adbd() as alone:
        print(alone.address, flush=True)
        sys.stdin.read()
