"""Debian's own ``adb``, with a server, a home and keys of its own: nobody else's server is touched."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Client:
    """The client, whose server listens on ``port``. The server's process ends with :func:`private_server`."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = home, port
        self.environment = os.environ | {
            "HOME": str(home),
            "ANDROID_USER_HOME": str(home),
            "ANDROID_ADB_SERVER_PORT": str(port),
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",  # no look at other emulators on this machine
        }
        self.environment.pop("ADB_VENDOR_KEYS", None)

    def __call__(self, *arguments: str | Path, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command = ["adb", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, input=given, capture_output=True, timeout=60)

    def attach(self, address: str) -> None:
        """Makes the server connect to a daemon; whether it is let in is another question."""
        self("connect", address)


@contextmanager
def private_server(home: Path) -> Iterator[Client]:
    """A client with a server that runs. Skips the test where there is no ``adb``."""
    if shutil.which("adb") is None:
        pytest.skip("there is no adb on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Client(home, port)
    started = client("start-server")
    assert started.returncode == 0, started
    try:
        yield client
    finally:
        client("kill-server")
