"""Runtimes come to a device whole or not at all, work there, and are not sent twice."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeopt.devices.adb import transport as adb
from edgeopt.devices.local import LocalTransport
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.runner_archive import archive
from edgeopt.devices.session.session import Session
from edgeopt.devices.setup import wheels
from edgeopt.devices.setup.install import Installed, installed, setup
from edgeopt.devices.ssh import transport as ssh
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, MissingExtra, UnknownName
from tests.devices.runner import jobs
from tests.devices.setup.wheels import make_wheel, only_index
from tests.emulators.adbd import Adbd
from tests.emulators.arm64 import Board, arm64, reached_over_ssh, switched_on

__all__ = ["arm64", "reached_over_ssh"]

LITERT = "ai_edge_litert.interpreter"
CRASH = "import os, signal; os.kill(os.getpid(), signal.{})"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.connect("desk", LocalTransport(), str(tmp_path / "device")) as connected:
        yield connected


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with small wheels for every Python, and room for what pip has fetched from it."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "index").mkdir()
    make_wheel(folder / "index", "numpy", "2.0.0", code="# numpy")
    make_wheel(folder / "index", "onnxruntime", "0.9.0", code="# onnxruntime, an older one")
    make_wheel(folder / "index", "onnxruntime", "1.0.0", code="# onnxruntime")
    make_wheel(folder / "index", "ai-edge-litert", "2.0.0", code="# litert", module=LITERT)
    return folder


@pytest.fixture
def one_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


@pytest.fixture
def stock(shared: Path, one_python: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the shared index is all that there is, and no version is preferred."""
    only_index(shared / "index", monkeypatch)
    monkeypatch.setenv("EDGEOPT_CACHE", str(shared / "cache"))
    monkeypatch.setattr(wheels, "version_here", lambda distribution: None)


@pytest.fixture
def index(stock: None, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shared index, to be changed."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(shared / "index", tmp_path / "index"))


@contextmanager
def steps(device: Device) -> Iterator[tuple[Session, list[str]]]:
    told: list[str] = []
    with device.session() as session:
        yield session, told
    assert session.warnings == []


def set_up(device: Device, *runtimes: str) -> tuple[Installed, list[str]]:
    with steps(device) as (session, told):
        found = setup(session, runtimes=runtimes or ("onnx", "tflite"), on_step=told.append)
    return found, told


def left_on(device: Device) -> list[str]:
    """What a device has beside device.sh: folders of runtimes, files of the store and of sessions."""
    root = Path(device.root)
    found = [*root.glob("runtimes/*"), *root.glob("store/*"), *root.glob("sessions/*")]
    return sorted(path.relative_to(root).as_posix() for path in found)


def test_runtimes_are_installed_and_found_again(device: Device, stock: None) -> None:
    assert installed(device) is None
    found, _ = set_up(device)
    assert installed(device) == found
    assert found.runtimes == {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
    assert found.versions == {"onnxruntime": "1.0.0", "ai-edge-litert": "2.0.0", "numpy": "2.0.0"}
    assert found.notes == ()
    assert set(left_on(device)) == {f"runtimes/{Path(found.folder).name}", "runtimes/current"}


def test_a_second_time_nothing_is_sent(device: Device, stock: None) -> None:
    first, told = set_up(device)
    assert any("sending" in step for step in told)
    second, told = set_up(device)
    assert second == first
    assert not any("sending" in step or "unpacking" in step for step in told)


def test_another_version_takes_the_place_of_the_one_before(
    device: Device, stock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(device, "onnx")
    monkeypatch.setattr(wheels, "version_here", {"onnxruntime": "0.9.0"}.get)
    found, _ = set_up(device, "onnx")
    assert found.versions["onnxruntime"] == "0.9.0"
    assert set(left_on(device)) == {f"runtimes/{Path(found.folder).name}", "runtimes/current"}


def test_another_version_than_here_is_noted(device: Device, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "version_here", {"onnxruntime": "9.9"}.get)
    found, _ = set_up(device, "onnx")
    assert len(found.notes) == 1
    assert "onnxruntime 1.0.0" in found.notes[0] and "9.9" in found.notes[0]


def test_tflite_runtime_stands_in_where_litert_has_no_wheel(device: Device, index: Path) -> None:
    (index / "ai_edge_litert-2.0.0-py3-none-any.whl").unlink()
    make_wheel(index, "tflite-runtime", "2.14.0", module="tflite_runtime.interpreter")
    make_wheel(index, "numpy", "1.26.4")
    found, _ = set_up(device)
    assert found.runtimes["tflite"] == "tflite-runtime"
    assert found.versions["numpy"] == "1.26.4"
    assert "ai-edge-litert" in found.notes[0]


def test_a_runtime_without_a_wheel_is_an_error_that_names_each_python(device: Device, index: Path) -> None:
    for wheel in index.glob("onnxruntime*"):
        wheel.unlink()
    with pytest.raises(DeviceError) as caught:
        set_up(device)
    assert "no wheel of onnxruntime for Python 3" in caught.value.why
    assert "desk" in caught.value.what
    assert caught.value.fix
    assert left_on(device) == []


def test_an_unknown_runtime_is_refused_with_the_known_ones(device: Device) -> None:
    with device.session() as session, pytest.raises(UnknownName, match="onnx"):
        setup(session, runtimes=("onyx",))


def test_without_pip_the_message_says_how_to_get_it(device: Device, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "PathFinder", SimpleNamespace(find_spec=lambda name: None))
    with pytest.raises(MissingExtra, match="ensurepip"):
        set_up(device)


@pytest.mark.parametrize(
    ("code", "why", "fix"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file: No such file')", "libgomp.so.1", "libgomp1"),
        ("import no_such_module_here", "no_such_module_here", "by hand"),
        (CRASH.format("SIGILL"), "an instruction that this processor does not have", "newer processor"),
        (CRASH.format("SIGSEGV"), "crashed", "report"),
        (CRASH.format("SIGKILL"), "killed", "memory"),
        ("raise SystemExit(0)", "exit code 0", "by hand"),
    ],
)
def test_a_runtime_that_cannot_be_imported_is_removed_and_the_cause_is_said(
    device: Device, stock: None, code: str, why: str, fix: str
) -> None:
    found, _ = set_up(device, "onnx")
    Path(found.folder, "onnxruntime.py").write_text(code)
    with pytest.raises(DeviceError) as caught:
        set_up(device, "onnx")
    assert "onnxruntime" in caught.value.what
    assert why in caught.value.why
    assert fix in caught.value.fix
    assert left_on(device) == ["runtimes/current"]
    assert installed(device) is None
    assert set_up(device, "onnx")[0] == found


def test_what_was_installed_stays_where_its_successor_does_not_work(device: Device, index: Path) -> None:
    working, _ = set_up(device, "tflite")
    make_wheel(index, "onnxruntime", "1.0.0", code="raise ImportError('no')")
    with pytest.raises(DeviceError):
        set_up(device, "onnx")
    assert installed(device) == working
    assert Path(working.folder).is_dir()


def test_nonsense_about_the_runtimes_is_refused_and_setting_up_again_heals_it(device: Device, stock: None) -> None:
    found, _ = set_up(device, "onnx")
    marker = Path(found.folder, "installed.json")
    known = json.loads(marker.read_text())
    elsewhere = ({"folder": "/elsewhere"}, {"python": "relative"}, {"python": "/a\nb"}, {"more": 1})
    for content in ("", "garbage", "{}", "[" * 10_000, "\x1b[2J", *(json.dumps(known | change) for change in elsewhere)):
        marker.write_text(content)
        with pytest.raises(BadAnswer) as caught:
            installed(device)
        assert "rm -r" in caught.value.fix
    assert set_up(device, "onnx")[0] == found == installed(device)


def test_a_current_name_that_climbs_out_is_refused(device: Device, stock: None, tmp_path: Path) -> None:
    found, _ = set_up(device)
    shutil.copy(Path(found.folder, "installed.json"), Path(device.root, "store", "installed.json"))
    Path(device.root, "runtimes", "current").write_text("../store\n")
    with pytest.raises(BadAnswer):
        installed(device)


def run_there(session: Session, found: Installed, artifact: Path, kind: str) -> list[dict[str, object]]:
    """The runner's events for ``artifact`` on the device, with random input."""
    values = jobs.sample()
    session.write("runner.zip", archive())
    session.write("model", artifact.read_bytes())
    session.write("x.bin", values.tobytes())
    tensor = {"name": "x", "file": "x.bin", "dtype": str(values.dtype), "shape": list(values.shape)}
    session.write("job.json", json.dumps(jobs.job(Path("model"), kind, [tensor])).encode())
    command = ("env", f"PYTHONPATH={found.folder}", "ORT_DISABLE_TELEMETRY=1", found.python, "runner.zip", "job.json")
    done = session.run("runner", command, timeout_s=120)
    assert done.exit_code == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()]


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "onnx", jobs.onnx_model(folder / "model.onnx")
    yield "tflite", jobs.tflite_model(folder / "model.tflite", "RELU")


@pytest.mark.slow
def test_the_real_runtimes_run_on_this_computer(device: Device, tmp_path: Path) -> None:
    with device.session() as session:
        found = setup(session)
        for kind, model in models(tmp_path):
            assert run_there(session, found, model, kind)


@pytest.mark.slow
@pytest.mark.device
def test_the_real_runtimes_run_on_an_arm64_computer(reached_over_ssh: Board, tmp_path: Path) -> None:
    with Device.connect("pi", ssh.connect(reached_over_ssh.url)) as pi:
        with steps(pi) as (session, told):
            found = setup(session, on_step=told.append)
            assert found.python.startswith("/usr/bin/python3")
            assert any("aarch64" in step for step in told)
            for kind, model in models(tmp_path):
                assert run_there(session, found, model, kind)
        assert installed(pi) == found
        again, told = set_up(pi)
        assert again == found
        assert not any("sending" in step for step in told)
    shutil.rmtree(reached_over_ssh.files / "home/pi/.cache")


@pytest.mark.slow
@pytest.mark.device
def test_the_real_runtimes_run_on_an_arm64_computer_over_adb(tmp_path: Path) -> None:
    with switched_on(tmp_path / "board") as board, Adbd(root=board.files, prefix=board.prefix_as_root) as adbd:
        (board.files / "data/local/tmp").mkdir(parents=True)
        with Device.connect("phone", adb.connect(f"adb://{adbd.address}", lambda question: "")) as phone:
            assert phone.root == "/data/local/tmp/edgeopt"
            with steps(phone) as (session, told):
                found = setup(session, on_step=told.append)
                assert any("aarch64" in step for step in told)
                for kind, model in models(tmp_path):
                    assert run_there(session, found, model, kind)
            assert installed(phone) == found


@pytest.mark.slow
@pytest.mark.device
def test_a_device_without_room_is_told_before_anything_is_sent(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "onnxruntime", "1.0.0", code="#" * 5_000_000)
    with switched_on(tmp_path / "board", home_bytes=4_000_000) as board:
        monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(board.ssh_config))
        with Device.connect("pi", ssh.connect(board.url)) as pi, pytest.raises(DeviceFull) as caught:
            set_up(pi, "onnx")
        assert "5 MB" in caught.value.why
        assert not list((board.files / "home/pi/.cache/edgeopt-device/store").iterdir())


@pytest.mark.slow
@pytest.mark.device
def test_a_device_without_python_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with switched_on(tmp_path / "board") as board:
        for program in (board.files / "usr/bin").glob("python3*"):
            program.unlink()
        monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(board.ssh_config))
        with Device.connect("pi", ssh.connect(board.url)) as pi, pytest.raises(DeviceError, match="no Python") as caught:
            set_up(pi)
        assert "install Python" in caught.value.fix
