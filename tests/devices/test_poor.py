"""Devices that lack programs: macOS has no setsid, a small Linux may have none of many."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeopt.devices.local import connect
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.own_folder import MARK, NAME
from edgeopt.devices.session.scripts import script
from edgeopt.errors import DeviceBusy, DeviceError, DeviceTimeout
from tests.devices.session.test_own_folder import of_before, state
from tests.devices.session.test_session import eventually, left, refuse, running

GROUPS = ("setsid", "busybox", "toybox")
DIGESTS = ("sha256sum", "shasum", "openssl", "busybox", "toybox")
SHELLS = [
    pytest.param(shell, marks=() if shell == "dash" else pytest.mark.slow)
    for shell in ("dash", "bash", "busybox")
    if shutil.which(shell)
]

Poor = Callable[..., Device]


@pytest.fixture(params=SHELLS)
def poor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poor]:
    """This computer as a device whose PATH has everything but the programs named, with one of several shells as ``sh``."""
    shell, made = Path(shutil.which(request.param) or ""), list[Device]()

    def make(*without: str) -> Device:
        programs = tmp_path / "programs"
        programs.mkdir()
        for folder in ("/usr/bin", "/bin"):
            for program in Path(folder).iterdir():
                link = programs / program.name
                if program.name not in ("sh", *without) and not link.is_symlink():
                    link.symlink_to(program)
        (programs / "sh").write_text(f'#!/bin/sh\nexec {shell}{" sh" if shell.name == "busybox" else ""} "$@"\n')
        (programs / "sh").chmod(0o755)
        monkeypatch.setenv("PATH", str(programs))
        made.append(Device.connect("here", connect("local", refuse), root=str(tmp_path / "a root")))
        return made[-1]

    yield make
    for device in made:
        device.close()


@pytest.mark.parametrize("others", [(), ("perl",), ("perl", "python3")], ids=["perl", "python", "own group"])
def test_without_setsid_a_run_that_takes_too_long_leaves_no_process(poor: Poor, others: tuple[str, ...]) -> None:
    device, marker = poor(*GROUPS, *others), f"985{os.getpid()}"
    with device.session() as session:
        assert session.run("one", ["sh", "-c", "echo out; exit 3"], timeout_s=20).exit_code == 3
        with pytest.raises(DeviceTimeout):
            session.run("endless", ["sh", "-c", f"sleep {marker} & sleep {marker}; true"], timeout_s=1)
        assert eventually(lambda: not running(f"sleep {marker}"))
    assert left(device) == []
    assert eventually(lambda: not running(f"reap {session.identifier}"))


@pytest.mark.parametrize("others", [(), ("perl", "python3")], ids=["perl", "own group"])
def test_without_setsid_the_device_ends_a_session_that_has_gone_silent(poor: Poor, others: tuple[str, ...]) -> None:
    device, marker = poor(*GROUPS, *others), f"984{os.getpid()}"
    assert device.ask("open", "silent", "somebody", "2").exit_code == 0
    command = ("sh", device.script, device.root, "run", "silent", "one", "sleep", marker)
    thread = threading.Thread(target=device.transport.run, args=(command,), kwargs={"timeout_s": 60})
    thread.start()
    assert eventually(lambda: running(f"sleep {marker}"))
    assert eventually(lambda: not running(f"sleep {marker}"))
    thread.join()
    assert eventually(lambda: left(device) == [])


@pytest.mark.parametrize("programs", [("readlink",), ("find",), ("env",), ("ps",), ("touch",)], ids="".join)
def test_what_is_not_needed_may_be_missing(poor: Poor, tmp_path: Path, programs: tuple[str, ...]) -> None:
    device = poor(*programs)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    with device.session() as session:
        stored = session.push(tmp_path / "model.onnx")
        with pytest.raises(DeviceBusy, match=f"process {os.getpid()}"), device.session():
            pytest.fail("two sessions at once")
    with device.session() as session:
        assert session.push(tmp_path / "model.onnx") == stored
    assert left(device) == []


def test_without_proc_and_ps_two_never_hold_the_device(poor: Poor, tmp_path: Path) -> None:
    device = poor("ps")
    script = Path(device.script)
    script.write_text(script.read_text().replace("/proc/", f"{tmp_path}/no-proc/"))
    with device.session(), pytest.raises(DeviceBusy), device.session():
        pytest.fail("two sessions at once")
    assert left(device) == []


def test_without_proc_processes_are_found_by_ps(poor: Poor, tmp_path: Path) -> None:
    """As on macOS, whose ps takes the same options."""
    device, marker = poor(), f"983{os.getpid()}"
    script = Path(device.script)
    script.write_text(script.read_text().replace("/proc/", f"{tmp_path}/no-proc/"))
    with device.session() as session:
        with pytest.raises(DeviceTimeout):
            session.run("endless", ["sleep", marker], timeout_s=0.5)
        assert eventually(lambda: not running(f"sleep {marker}"))
        with pytest.raises(DeviceBusy), device.session():
            pytest.fail("two sessions at once")
    assert left(device) == []
    assert device.ask("open", "dead", "somebody", "1000").exit_code == 0
    os.kill(int(Path(device.root, "sessions", "dead", "reaper").read_text()), signal.SIGKILL)
    with device.session():
        pass


def test_without_readlink_a_dead_session_is_cleared_by_the_next(poor: Poor) -> None:
    device = poor("readlink")
    assert device.ask("open", "dead", "somebody", "1000").exit_code == 0
    os.kill(int(Path(device.root, "sessions", "dead", "reaper").read_text()), signal.SIGKILL)
    with device.session():
        pass
    assert left(device) == []


def test_without_df_a_file_is_sent_all_the_same(poor: Poor, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    with poor("df").session() as session:
        assert Path(session.push(tmp_path / "model.onnx")).read_bytes() == b"weights"


@pytest.mark.parametrize("there", (*DIGESTS, "python3"))
def test_a_digest_is_computed_by_whatever_there_is(poor: Poor, tmp_path: Path, there: str) -> None:
    if not shutil.which(there):
        pytest.skip(f"{there} is not installed here")
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(1000))
    with poor(*(program for program in (*DIGESTS, "python3") if program != there)).session() as session:
        assert Path(session.push(source)).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("there", (*DIGESTS, "python3"))
def test_a_folder_from_before_the_mark_is_known_by_whatever_computes_a_digest(poor: Poor, tmp_path: Path, there: str) -> None:
    if not shutil.which(there):
        pytest.skip(f"{there} is not installed here")
    folder = of_before(tmp_path / "a root" / NAME)
    poor(*(program for program in (*DIGESTS, "python3") if program != there))
    assert (folder / MARK).is_file()


def test_a_folder_from_before_the_mark_is_not_taken_where_nothing_computes_a_digest_and_that_is_said(
    poor: Poor, tmp_path: Path
) -> None:
    folder = of_before(tmp_path / "a root" / NAME)
    before = state(folder)
    with pytest.raises(DeviceError, match="cannot be known for edgeopt's folder") as caught:
        poor(*DIGESTS, "python3")
    assert "computes SHA-256" in caught.value.why and "install sha256sum" in caught.value.fix
    assert state(folder) == before
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DeviceError, match="is not edgeopt's folder"):
        Device.connect("here", connect("local", refuse), root=str(tmp_path / "a root"))


def test_both_scripts_compute_a_digest_in_the_same_way() -> None:
    texts = [script(name) for name in ("device.sh", "own_folder.sh")]
    ways = [re.findall(r"^there\(\) .*?^digest\(\) .*?^}$", text, re.DOTALL | re.MULTILINE) for text in texts]
    assert len(ways[0]) == 1 and ways[0] == ways[1]


def test_what_is_needed_and_missing_is_named_with_the_next_step(poor: Poor) -> None:
    device = poor(*DIGESTS, "python3", "tr")
    with pytest.raises(DeviceError, match="lacks programs") as caught, device.session():
        pytest.fail("it cannot check a file")
    assert caught.value.why == "tr, a program for SHA-256 (sha256sum, shasum, openssl or python3)"
    assert "busybox" in caught.value.fix


def test_without_any_way_to_a_process_group_of_its_own_that_is_named(poor: Poor) -> None:
    """Behind a transport that starts commands in a group of many, such as a server of one's own."""
    device = poor(*GROUPS, "perl", "python3")
    command = ("sh", "-c", 'sh "$@"; exit $?', "sh", device.script, device.root, "open", "one", "me", "9")
    inner = ("sh", "-c", '"$@"; exit $?', "sh", *command)
    done = device.transport.run(inner, timeout_s=20)
    assert (done.exit_code, done.stdout.decode().count("process group of its own")) == (69, 1)


def test_the_reaper_outlives_the_end_of_the_connection(poor: Poor) -> None:
    device = poor(*GROUPS, "perl", "python3")
    command = ("sh", device.script, device.root, "open", "alone", "somebody", "1000")
    process = subprocess.Popen(command, start_new_session=True)
    process.wait(20)
    assert eventually(lambda: running("reap alone"))
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.2)
    assert running("reap alone")
    device.ask("close", "alone")
    assert eventually(lambda: not running("reap alone"))
