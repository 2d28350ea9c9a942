"""Removing everything of edgeopt's from a device: all of it, nothing else, and while nobody else has it."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.local import connect
from edgeopt.devices.session.device import Device
from edgeopt.errors import DeviceBusy
from tests.devices.session.test_session import eventually, left, refuse


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.connect("here", connect("local", refuse), root=str(tmp_path / "a root's folder")) as found:
        yield found


def test_clean_has_the_device_until_everything_is_deleted(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "rm"
    wait = f"cd {tmp_path}; [ -e go ] || touch began; while [ ! -e go ]; do sleep 0.05; done"
    slow.write_text(f'#!/bin/sh\n({wait})\nexec /bin/rm "$@"\n')
    slow.chmod(0o755)
    Path(device.root, "runtimes").mkdir()
    with Device.connect("there", connect("local", refuse), root=device.root) as other:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            cleaning = threading.Thread(target=device.clean)
            cleaning.start()
            assert eventually((tmp_path / "began").exists)
        with pytest.raises(DeviceBusy, match=f"process {os.getpid()}"), other.session():
            pytest.fail("it is just being cleaned")
        threading.Timer(1.5, (tmp_path / "go").touch).start()
        with other.session(wait_s=20) as session:
            assert not cleaning.is_alive() or not Path(device.root, "runtimes").exists()
            session.write("job.json", b"{}")
        assert not Path(device.root, "runtimes").exists()
        cleaning.join()
        other.clean()
    assert not Path(device.root).exists()


def test_clean_clears_what_dead_sessions_left_too(device: Device, tmp_path: Path) -> None:
    governor = tmp_path / "governor"
    governor.write_text("schedutil")
    assert device.ask("open", "dead", "somebody", "1000").exit_code == 0
    device.ask("set", "dead", str(governor), "performance")
    os.kill(int(Path(device.root, "sessions", "dead", "reaper").read_text()), signal.SIGKILL)
    Path(device.root, "lock").unlink()
    Path(device.root, "sessions", ".ended").mkdir()
    device.clean()
    assert governor.read_text() == "schedutil"
    assert not Path(device.root).exists()


def test_a_device_that_was_cleaned_after_connecting_gets_its_own_half_again(device: Device, tmp_path: Path) -> None:
    with Device.connect("there", connect("local", refuse), root=device.root) as other:
        other.clean()
    assert not Path(device.root).exists()
    (tmp_path / "model.onnx").write_bytes(b"weights")
    with device.session() as session:
        session.push(tmp_path / "model.onnx")
    assert stat.S_IMODE(Path(device.root).stat().st_mode) == 0o700
    assert left(device) == []


def test_a_folder_that_the_user_names_gets_a_folder_of_edgeopt_s_and_stays_as_it_is(tmp_path: Path) -> None:
    """``clean`` removes edgeopt's alone, and no listing changes the mode of somebody's disk."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    (disk / "thesis.txt").write_text("mine")
    with Device.connect("here", connect("local", refuse), root=str(disk)) as device:
        assert device.root == str(disk / "edgeopt-device") and stat.S_IMODE(disk.stat().st_mode) == 0o755
        assert stat.S_IMODE(Path(device.root).stat().st_mode) == 0o700
        device.clean()
    assert [path.name for path in disk.iterdir()] == ["thesis.txt"]
