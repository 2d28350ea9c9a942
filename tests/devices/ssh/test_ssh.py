"""Devices over SSH, against a real OpenSSH server."""

import io
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from edgeopt.devices.ssh import client
from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.devices.transport import QUICK_S, Transport
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, DeviceTimeout, LinkLost, UsageError
from tests.devices.contract import FileContract, RunContract, ThreadsContract, fetched, output_of
from tests.emulators.sshd import HOST, Proxy, Server, asking_server, connected, sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd"), "MaxSessions 20") as running:
        yield running


@pytest.fixture(scope="module")
def transport(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    """One connection for many tests: an operation that failed must not harm the next."""
    with connected(server, tmp_path_factory.mktemp("client")) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "device").mkdir()
    return str(tmp_path / "device")


class TestSsh(RunContract, FileContract):
    @pytest.mark.slow
    def test_output_that_is_refused_again_and_again_leaves_the_connection_as_it_is(self, transport: Transport) -> None:
        for _ in range(100):
            with pytest.raises(BadAnswer):
                transport.run(["yes"], timeout_s=QUICK_S, limit=1)


class TestSshThreads(ThreadsContract):
    @pytest.fixture
    def transport(self, server: Server, tmp_path: Path) -> Iterator[Transport]:
        with connected(server, tmp_path) as opened:
            yield opened


@pytest.fixture
def proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv(
        CONFIG_VARIABLE,
        str(server.client_config(tmp_path / "ssh_config", "HostKeyAlias device", known=server.known_lines("device"))),
    )
    running = Proxy(server.port)
    yield running
    running.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ALIVE_S", 1)
    monkeypatch.setattr(client, "ALIVE_COUNT", 1)


def through(proxy: Proxy) -> Transport:
    return ssh.connect(f"ssh://{HOST}:{proxy.port}")


class Endless(io.RawIOBase):
    """A file without end."""

    def read(self, size: int = -1) -> bytes:
        return b"x" * size


class Bottomless(io.RawIOBase):
    """A file that forgets what is written."""

    def write(self, data: object) -> int:
        return 0


OPERATIONS: dict[str, Callable[[Transport, str], object]] = {
    "run": lambda transport, folder: transport.run(["sleep", "15"], timeout_s=60),
    "send": lambda transport, folder: transport.send(Endless(), f"{folder}/endless"),  # type: ignore[arg-type]
    "fetch": lambda transport, folder: transport.fetch("/dev/zero", Bottomless(), limit=10**13),  # type: ignore[arg-type]
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_link_that_goes_silent_is_noticed(proxy: Proxy, folder: str, operation: str) -> None:
    transport = through(proxy)
    threading.Timer(0.3, proxy.silence).start()
    start = time.monotonic()
    with pytest.raises(LinkLost, match="nothing was heard"):
        OPERATIONS[operation](transport, folder)
    assert 1 < time.monotonic() - start < 6
    transport.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_link_that_is_cut_is_noticed_at_once(proxy: Proxy, folder: str, operation: str) -> None:
    transport = through(proxy)
    threading.Timer(0.3, proxy.cut).start()
    start = time.monotonic()
    with pytest.raises(LinkLost):
        OPERATIONS[operation](transport, folder)
    assert time.monotonic() - start < 3
    with pytest.raises(LinkLost):
        transport.run(["true"], timeout_s=5)


@pytest.mark.usefixtures("impatient")
def test_a_quiet_device_that_answers_is_not_held_for_dead(proxy: Proxy) -> None:
    transport = through(proxy)
    assert transport.run(["sh", "-c", "sleep 3; echo here"], timeout_s=10).stdout == b"here\n"
    transport.close()


@pytest.mark.usefixtures("impatient")
def test_a_device_that_reads_slowly_is_not_held_for_dead(proxy: Proxy, server: Server, folder: str) -> None:
    slow = Proxy(server.port, bytes_per_s=400_000)
    transport = through(slow)
    transport.send(io.BytesIO(bytes(1_000_000)), f"{folder}/file")
    assert output_of(transport, "wc", "-c", f"{folder}/file").split()[0] == b"1000000"
    transport.close()
    slow.close()


class Hanging(paramiko.ServerInterface):
    """A server that lets everybody in and never answers a request, though it answers keepalives."""

    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        time.sleep(4)
        return True


def test_a_server_that_answers_no_request_times_out(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = server.client_config(tmp_path / "ssh_config", "HostKeyAlias device", known=server.known_lines("device"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    with asking_server(Hanging(), server.host_keys[0]) as url:
        transport = ssh.connect(url)
        start = time.monotonic()
        with pytest.raises(DeviceTimeout):
            transport.run(["true"], timeout_s=0.5)
        assert time.monotonic() - start < 3
        transport.close()


@pytest.mark.slow
def test_a_dead_link_is_noticed_within_thirty_seconds(proxy: Proxy) -> None:
    transport = through(proxy)
    proxy.silence()
    start = time.monotonic()
    with pytest.raises(LinkLost):
        transport.run(["true"], timeout_s=60)
    assert time.monotonic() - start < 30


@pytest.mark.usefixtures("proxy")
def test_relative_paths_start_at_the_home_folder_there(proxy: Proxy) -> None:
    transport = through(proxy)
    name = f"edgeopt-test-{os.getpid()}"
    home = output_of(transport, "pwd").decode().strip()
    transport.send(io.BytesIO(b"x"), name)
    assert output_of(transport, "cat", f"{home}/{name}") == b"x"
    output_of(transport, "rm", name)
    transport.close()


def test_a_disk_without_room_is_said_to_be_full(transport: Transport, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(DeviceFull) as caught:
            transport.send(io.BytesIO(b"x" * 10_000_000), f"{small}/file")
        assert "bytes left" in caught.value.why
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_write_that_fails_for_another_reason_is_not_put_down_to_the_disk(transport: Transport) -> None:
    with pytest.raises(DeviceError) as caught:
        transport.send(io.BytesIO(b"x"), "/proc/version")
    assert not isinstance(caught.value, DeviceFull)


@pytest.mark.parametrize("most", [1, 2])
def test_more_operations_at_once_than_the_server_has_sessions_in_a_connection_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    with sshd(tmp_path / "sshd", f"MaxSessions {most}") as server:
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))
        transport = ssh.connect(server.url)
        for _ in range(10):
            output_of(transport, "true")
        assert server.log.count("Accepted publickey") == 1  # one after another need one connection

        def work(number: int) -> bool:
            transport.send(io.BytesIO(bytes(number)), str(tmp_path / f"file{number}"))
            return output_of(transport, "sh", "-c", f"sleep 0.3; echo {number}") == f"{number}\n".encode()

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(work, range(24)))
        transport.close()


def test_a_server_that_allows_no_session_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd(tmp_path / "sshd", "MaxSessions 0") as server:
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))
        transport = ssh.connect(server.url)
        with pytest.raises(DeviceError, match="MaxSessions"):
            transport.run(["true"], timeout_s=5)
        transport.close()


def test_a_server_without_sftp_is_said_to_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd(tmp_path / "sshd", sftp="/nowhere/sftp-server") as server:
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))
        transport = ssh.connect(server.url)
        with pytest.raises(DeviceError, match="Subsystem sftp"):
            fetched(transport, "/proc/version")
        transport.close()


def test_a_name_with_nul_is_refused(transport: Transport) -> None:
    with pytest.raises(UsageError):
        transport.fetch("/tmp/a\0b", io.BytesIO(), limit=1)
    with pytest.raises(UsageError):
        transport.send(io.BytesIO(), "/tmp/a\0b")


def test_closing_leaves_no_thread_and_no_file_descriptor(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))

    def open_now() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = open_now()
    for _ in range(3):
        transport = ssh.connect(server.url)
        output_of(transport, "true")
        transport.send(io.BytesIO(b"x"), str(tmp_path / "file"))
        transport.close()
    deadline = time.monotonic() + 5
    while open_now() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_now() <= before
