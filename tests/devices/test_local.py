"""This computer as a device."""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgeopt.devices.local import LocalTransport
from edgeopt.devices.transport import Transport
from edgeopt.errors import DeviceFull, DeviceTimeout, UsageError
from tests.devices.contract import TransportContract


@pytest.fixture
def transport() -> Iterator[Transport]:
    local = LocalTransport()
    yield local
    local.close()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


class TestLocal(TransportContract):
    pass


def test_relative_paths_start_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    local = LocalTransport()
    local.send(io.BytesIO(b"x"), "here")
    assert (tmp_path / "here").read_bytes() == b"x"
    assert local.run(["cat", "here"], timeout_s=5).stdout == b"x"
    local.close()


def test_a_disk_without_room_is_said_to_be_full(transport: Transport) -> None:
    with pytest.raises(DeviceFull):
        transport.send(io.BytesIO(b"x" * 10_000), "/dev/full")


def test_a_command_whose_time_is_over_is_killed_with_its_children(transport: Transport, folder: str) -> None:
    script = f"sleep 60 & echo $! > {folder}/child; wait"
    with pytest.raises(DeviceTimeout):
        transport.run(["sh", "-c", script], timeout_s=0.5)
    child = int(Path(folder, "child").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_runs_in_a_process_group_of_its_own(transport: Transport) -> None:
    finished = transport.run(["sh", "-c", "ps -o pgid= -p $$"], timeout_s=5)
    assert int(finished.stdout) != os.getpgid(0)


@pytest.mark.parametrize("command", [[], ["a\0b"]])
def test_what_cannot_be_a_command_is_refused(transport: Transport, command: list[str]) -> None:
    with pytest.raises(UsageError):
        transport.run(command, timeout_s=5)


def test_a_name_with_nul_is_refused(transport: Transport) -> None:
    with pytest.raises(UsageError):
        transport.fetch("/tmp/a\0b", io.BytesIO(), limit=1)
    with pytest.raises(UsageError):
        transport.send(io.BytesIO(), "/tmp/a\0b")


def test_no_file_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        local = LocalTransport()
        local.run(["true"], timeout_s=5)
        local.close()
    del local
    assert len(os.listdir("/proc/self/fd")) == before
