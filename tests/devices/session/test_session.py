"""Sessions on this computer as the device, with the real device.sh: the same code runs on every other kind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

from edgeopt.devices.local import connect
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.own_folder import MARK
from edgeopt.devices.transport import OnBytes
from edgeopt.errors import BadAnswer, DeviceBusy, DeviceFull, DeviceTimeout, LinkLost

SILENCE_S = 3


def refuse(question: str) -> str:
    raise AssertionError(question)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.connect("here", connect("local", refuse), root=str(tmp_path / "a root's folder")) as found:
        yield found


def eventually(condition: object, within_s: float = 15.0) -> bool:
    assert callable(condition)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with suppress(FileNotFoundError):  # what is being removed while it is listed
            if condition():
                return True
        time.sleep(0.05)
    return False


def left(device: Device) -> list[str]:
    """What is on the device besides its own half and its store."""
    root = Path(device.root)
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.name.startswith(("device-", MARK)) and path.parts[len(root.parts)] != "store" and path != root / "sessions"
    )


def running(marker: str) -> bool:
    return subprocess.run(["pgrep", "-f", marker], capture_output=True, check=False).returncode == 0


def test_a_pushed_file_arrives_whole_and_a_second_push_sends_nothing(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "it's a \n model.onnx"
    source.write_bytes(os.urandom(3_000_000))
    sent: list[int] = []
    with device.session() as session:
        first = session.push(source, on_bytes=sent.append)
        assert sum(sent) == 3_000_000
        assert session.push(source, on_bytes=sent.append) == first
        assert sum(sent) == 3_000_000
    assert Path(first).read_bytes() == source.read_bytes()
    assert Path(first).parent == Path(device.root) / "store"
    assert Path(first).suffix == ".onnx"


def test_a_file_damaged_in_the_store_is_sent_again(device: Device, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"weights")
    with device.session() as session:
        stored = Path(session.push(tmp_path / "model.tflite"))
        stored.write_bytes(b"weighty")
        session.push(tmp_path / "model.tflite")
    assert stored.read_bytes() == b"weights"


def test_an_interrupted_push_goes_on_where_it_stopped(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(500_000))
    real = device.transport.send

    def cut(source: BinaryIO, remote: str, *, offset: int = 0, on_bytes: OnBytes | None = None) -> None:
        real(BytesIO(source.read(200_000)), remote, offset=offset)
        raise LinkLost("the cable is out")

    sent: list[int] = []
    with device.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(type(device.transport), "send", lambda self, *args, **options: cut(*args, **options))
            with pytest.raises(LinkLost):
                session.push(source)
        stored = session.push(source, on_bytes=sent.append)
    assert sum(sent) == 300_000
    assert Path(stored).read_bytes() == source.read_bytes()


def test_a_rest_of_another_file_under_the_name_costs_one_more_attempt(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(1000))
    with device.session() as session:
        stored = Path(session.push(source))
        stored.rename(f"{stored}.part")
        Path(f"{stored}.part").write_bytes(b"something else")
        session.push(source)
    assert stored.read_bytes() == source.read_bytes()


def test_what_always_arrives_damaged_is_an_error(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    real = device.transport.send
    monkeypatch.setattr(
        type(device.transport), "send", lambda self, source, remote, **options: real(BytesIO(b"noise"), remote, **options)
    )
    with device.session() as session, pytest.raises(BadAnswer, match="arrived damaged"):
        session.push(tmp_path / "model.onnx")


def test_room_is_looked_for_before_anything_is_sent(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "huge"
    with source.open("wb") as file:
        file.truncate(1 << 20)
    with device.session() as session:
        have = session._have
        session_type = type(session)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_type, "_have", lambda self, *arguments: (have(*arguments)[0], 1000))
            patch.setattr(type(device.transport), "send", lambda *arguments, **options: pytest.fail("sent"))
            with pytest.raises(DeviceFull, match=r"no room for 1\.05 MB, and 1 MB to spare"):
                session.push(source)


def test_a_run_gives_its_lines_as_they_come_and_its_exit_code(device: Device) -> None:
    lines: list[str] = []
    with device.session() as session:
        done = session.run("one", ["sh", "-c", "echo a; echo 'b c'; printf d; exit 3"], timeout_s=20, on_line=lines.append)
    assert (done.exit_code, lines) == (3, ["a", "b c", "d"])


def test_onnx_runtime_s_telemetry_is_off_in_whatever_runs_there(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)  # a remote device does not have this computer's variables
    with device.session() as session:
        done = session.run("one", ["sh", "-c", "echo $ORT_DISABLE_TELEMETRY"], timeout_s=20)
    assert done.stdout == b"1\n"


def test_files_of_a_run_are_written_read_and_gone_afterwards(device: Device) -> None:
    with device.session() as session:
        session.write("job.json", b"{}")
        done = session.run("copy", ["cp", "job.json", "copied"], timeout_s=20)
        assert (done.exit_code, session.read("copied")) == (0, b"{}")
    assert left(device) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", "-rf", ".hidden", "a\nb", "x" * 200])
def test_names_that_lead_elsewhere_are_refused(device: Device, name: str) -> None:
    with device.session() as session, pytest.raises(ValueError, match="plain file name"):
        session.write(name, b"")


def test_a_run_that_takes_too_long_leaves_no_process(device: Device) -> None:
    marker = f"987{os.getpid()}"
    with device.session() as session:
        with pytest.raises(DeviceTimeout):
            session.run("endless", ["sh", "-c", f"sleep {marker} & sleep {marker}; true"], timeout_s=1)
        assert eventually(lambda: not running(f"sleep {marker}"))


def test_settings_are_put_back_latest_first(device: Device, tmp_path: Path) -> None:
    governor = tmp_path / "scaling governor"
    governor.write_text("schedutil")
    with device.session() as session:
        assert session.set(str(governor), "performance")
        assert session.set(str(governor), "userspace")
        assert governor.read_text() == "userspace"
    assert governor.read_text() == "schedutil"
    assert session.warnings == []


def test_a_setting_that_may_not_be_written_is_not_an_error(device: Device, tmp_path: Path) -> None:
    with device.session() as session:
        assert not session.set(str(tmp_path / "no such folder" / "governor"), "performance")


def test_one_session_at_a_time_and_the_other_is_told_who_has_it(device: Device) -> None:
    with device.session(), pytest.raises(DeviceBusy, match=f"process {os.getpid()}"), device.session():
        pytest.fail("two sessions at once")
    with device.session():
        pass


def test_a_session_can_be_waited_for(device: Device) -> None:
    told: list[str] = []
    with device.session() as first:
        threading.Timer(1.5, first.end).start()
        with device.session(wait_s=20, on_wait=told.append):
            pass
    assert len(told) == 1


def test_twenty_contenders_never_hold_the_device_together(device: Device, tmp_path: Path) -> None:
    held: list[int] = []
    most = 0

    def contend() -> None:
        nonlocal most
        with device.session(wait_s=60):
            held.append(1)
            most = max(most, len(held))
            time.sleep(0.01)
            held.pop()

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert left(device) == []


CRASHES = """
import sys
from edgeopt.devices.session.device import Device
from edgeopt.devices.local import connect

device = Device.connect("here", connect("local", input), root=sys.argv[1])
with device.session(silence_s=int(sys.argv[2])) as session:
    session.set(sys.argv[3], "performance")
    print("ready", flush=True)
    session.run("endless", ["sleep", sys.argv[4]], timeout_s=1000)
"""


@pytest.mark.slow
def test_when_this_process_dies_the_device_clears_itself(device: Device, tmp_path: Path) -> None:
    governor, marker = tmp_path / "governor", f"876{os.getpid()}"
    governor.write_text("schedutil")
    command = [sys.executable, "-c", CRASHES, device.root, str(SILENCE_S), str(governor), marker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert eventually(lambda: running(f"sleep {marker}"))
        process.send_signal(signal.SIGKILL)
    assert governor.read_text() == "performance"
    assert eventually(lambda: not left(device))
    assert eventually(lambda: not running(f"sleep {marker}"))
    assert governor.read_text() == "schedutil"


@pytest.mark.slow
def test_a_quiet_run_keeps_its_session_as_long_as_we_are_here(device: Device) -> None:
    with device.session(silence_s=SILENCE_S) as session:
        done = session.run("quiet", ["sleep", str(3 * SILENCE_S)], timeout_s=60)
        assert done.exit_code == 0
        session.write("still-here", b"")


def test_who_died_while_clearing_for_a_dead_session_is_in_nobody_s_way(device: Device) -> None:
    assert device.ask("open", "dead", "somebody", "1000").exit_code == 0
    os.kill(int(Path(device.root, "sessions", "dead", "reaper").read_text()), signal.SIGKILL)
    Path(device.root, "clearing").symlink_to("999999,another")
    with device.session(wait_s=10):
        pass
    assert left(device) == []


def test_a_session_whose_reaper_has_not_begun_yet_is_not_taken_for_dead(device: Device) -> None:
    """Between fork and exec its words are those of the shell that opens the session; on a busy device that takes long."""
    assert device.ask("open", "held", "somebody", "1000").exit_code == 0
    reaper = Path(device.root, "sessions", "held", "reaper")
    os.kill(int(reaper.read_text()), signal.SIGKILL)
    with subprocess.Popen(["sh", "-c", "sleep 60; :", "device.sh", device.root, "open", "held", "somebody"]) as opening:
        reaper.write_text(f"{opening.pid}\n")
        with pytest.raises(DeviceBusy, match="somebody"), device.session():
            pass
        opening.kill()
    with device.session(wait_s=10):
        pass
    assert left(device) == []


@pytest.mark.parametrize("what", ["reboot", "reaper killed", "half gone"])
def test_what_a_dead_session_left_belongs_to_nobody(device: Device, tmp_path: Path, what: str) -> None:
    governor = tmp_path / "governor"
    governor.write_text("schedutil")
    opened = device.ask("open", "dead", "somebody", "1000")
    assert opened.exit_code == 0
    device.ask("set", "dead", str(governor), "performance")
    session = Path(device.root, "sessions", "dead")
    reaper = int((session / "reaper").read_text())
    try:
        if what == "reboot":
            (session / "boot").write_text("another boot\n")
        elif what == "reaper killed":
            os.kill(reaper, signal.SIGKILL)
        else:
            session.rename(session.with_name(".dead"))
        with device.session():
            assert governor.read_text() == "schedutil"
        assert left(device) == []
    finally:
        if eventually(lambda: running("reap dead"), 0.1):
            os.kill(reaper, signal.SIGKILL)


def test_a_file_that_grows_is_a_sign_of_life(device: Device) -> None:
    """Over a slow link a beat waits behind what is being sent."""
    assert device.ask("open", "slow", "somebody", "2").exit_code == 0
    Path(device.root, "store").mkdir(exist_ok=True)
    part = Path(device.root, "store", "model.part")
    for _ in range(10):
        with part.open("ab") as file:
            file.write(b"x")
        time.sleep(0.6)
    assert Path(device.root, "sessions", "slow").is_dir()
    assert eventually(lambda: not Path(device.root, "sessions", "slow").exists())
    assert part.exists()


def test_a_large_file_of_a_session_has_its_name_when_it_is_whole(device: Device) -> None:
    content = os.urandom(300_000)
    with device.session() as session:
        path = session.write("input-0.bin", content)
        assert Path(path).read_bytes() == content
        assert [file.name for file in Path(session.folder).iterdir()] == ["input-0.bin"]
