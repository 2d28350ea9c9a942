"""An emulated ARM64 device behind an emulated daemon, with edgeopt's own half on it: sessions over ADB."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeopt.devices.adb.transport import connect
from edgeopt.devices.session.device import Device
from edgeopt.errors import DeviceTimeout, LinkLost
from tests.devices.adb.fixtures import home, nobody, until
from tests.emulators.adbd import Adbd
from tests.emulators.arm64 import Board, arm64

__all__ = ["arm64", "home"]
pytestmark = pytest.mark.slow


@pytest.fixture
def phone(arm64: Board) -> Iterator[Adbd]:
    with Adbd(arm64.files, arm64.prefix, owner=(arm64.uid, arm64.uid)) as emulated:
        yield emulated


@pytest.fixture
def device(phone: Adbd, arm64: Board) -> Iterator[Device]:
    with closing(connect(f"adb://{phone.address}", nobody)) as transport:
        yield Device.connect("phone", transport, f"{arm64.home}/over-adb")


def test_a_session_pushes_once_and_runs_aarch64(device: Device, phone: Adbd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    with device.session() as session:
        path = session.push(tmp_path / "file")
        before = phone.received
        assert session.push(tmp_path / "file") == path
        assert phone.received - before < 10_000
        assert session.run("what", ["uname", "-m"], timeout_s=30).stdout == b"aarch64\n"
        assert session.run("size", ["wc", "-c", path], timeout_s=30).stdout.split()[0] == b"3000000"
        session.write("input", b"given")
        assert session.read("input") == b"given"
    until(lambda: not phone.processes())
    device.clean()


def test_a_run_without_end_leaves_no_process(device: Device, phone: Adbd) -> None:
    with device.session() as session:
        with pytest.raises(DeviceTimeout):
            session.run("endless", ["sleep", "1000"], timeout_s=2)
        assert session.run("next", ["echo", "usable"], timeout_s=30).stdout == b"usable\n"
    until(lambda: not phone.processes())


def test_after_a_cut_link_the_device_clears_itself(device: Device, phone: Adbd, arm64: Board) -> None:
    with device.session(silence_s=3) as session:
        threading.Timer(2, phone.cut).start()
        with pytest.raises(LinkLost):
            session.run("endless", ["sleep", "1000"], timeout_s=60)
    assert session.warnings
    until(lambda: not phone.processes(), within_s=30)
    left = arm64.files / arm64.home.lstrip("/") / "over-adb" / "edgeopt-device"
    assert not (left / "lock").is_symlink()
    assert not any((left / "sessions").iterdir())
