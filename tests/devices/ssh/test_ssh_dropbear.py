"""Dropbear, the SSH server of small devices, does all that a device must do."""

import io
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.devices.transport import Transport
from tests.devices.contract import FileContract, RunContract, fetched, output_of
from tests.emulators.sshd import HOST, Server, free_port, make_key


@contextmanager
def dropbear(folder: Path) -> Iterator[Server]:
    """It takes keys from its user's home alone: it gets a home of its own, in a tree of mounts of its own."""
    program, keys = shutil.which("dropbear"), shutil.which("dropbearkey")
    if program is None or keys is None:
        pytest.skip("Dropbear is not installed (Debian: apt install dropbear-bin)")
    if os.geteuid() != 0:
        pytest.skip("Dropbear's user gets another home only by root")
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    os.chmod(folder, 0o700)
    shutil.copy(make_key(folder / "key").with_suffix(".pub"), folder / ".ssh" / "authorized_keys")
    made = subprocess.run([keys, "-t", "ed25519", "-f", str(folder / "host")], capture_output=True, check=True, text=True)
    (folder / "host.pub").write_text(next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519")))
    server = Server(port=free_port(), folder=folder, key=folder / "key", host_keys=(folder / "host",))
    start = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    own = ["unshare", "--mount", "sh", "-c", start, "sh", str(folder), pwd.getpwuid(0).pw_dir]
    command = [*own, program, "-F", "-E", "-p", f"{HOST}:{server.port}", "-r", str(folder / "host"), "-P", str(folder / "pid")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(200):
            if process.poll() is not None:
                pytest.skip(f"Dropbear does not run here: {server.log.strip()[-200:]}")
            with suppress(OSError), socket.create_connection((HOST, server.port), timeout=5) as connection:
                if connection.recv(4) == b"SSH-":
                    break
            time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    folder = tmp_path_factory.mktemp("dropbear")
    with dropbear(folder / "home") as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CONFIG_VARIABLE, str(server.client_config(folder / "ssh_config")))
            connected = ssh.connect(server.url)
        yield connected
        connected.close()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


class TestDropbear(RunContract, FileContract):
    """It mixes up sessions that end at the same time, and ends a connection where a client closes a session before it does."""

    def test_one_operation_after_another_works(self, transport: Transport, folder: str) -> None:
        for number in range(40):
            assert output_of(transport, "echo", str(number)) == f"{number}\n".encode()
            transport.send(io.BytesIO(b"x" * number), f"{folder}/file")
            assert fetched(transport, f"{folder}/file") == b"x" * number

    def test_many_operations_at_once_work(self, transport: Transport, folder: str) -> None:
        def work(number: int) -> bool:
            transport.send(io.BytesIO(b"x" * number), f"{folder}/{number}")
            return output_of(transport, "wc", "-c", f"{folder}/{number}").split()[0] == str(number).encode()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(80)))
