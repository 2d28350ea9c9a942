"""edgeopt's folder on a device: nothing without its mark is used, changed or removed, whatever lies at its place."""

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.bench.inventory import inventory
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.local import connect
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.own_folder import MARK, NAME
from edgeopt.errors import DeviceError
from tests.devices.session.test_session import refuse

SHELLS = [
    pytest.param(shell, marks=() if shell == "dash" else pytest.mark.slow)
    for shell in ("dash", "bash", "busybox")
    if shutil.which(shell)
]


@pytest.fixture(params=SHELLS, autouse=True)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ``sh``; busybox prefers its own ``ls`` and ``rm`` to those of PATH."""
    shell = Path(shutil.which(request.param) or "")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sh").write_text(f'#!/bin/sh\nexec {shell}{" sh" if shell.name == "busybox" else ""} "$@"\n')
    (programs / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def at(root: Path | str | None) -> Device:
    return Device.connect("here", connect("local", refuse), root=None if root is None else str(root))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents of everything in a folder, and its own."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths}


def precious(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    (folder / "sub" / "data").write_text("mine too")
    folder.chmod(0o755)
    return folder


def assert_refused(root: Path, kept: Path) -> None:
    before = state(kept)
    for _ in range(2):
        with pytest.raises(DeviceError, match="is not edgeopt's folder") as caught:
            at(root)
        assert MARK in caught.value.why and "move what is there away" in caught.value.fix and "root = " in caught.value.fix
    (row,) = inventory([DeviceSpec(name="here", url="local", root=str(root))], refuse)
    assert "is not edgeopt's folder" in row.error
    assert state(kept) == before


def test_a_link_to_somebodys_folder_is_refused(tmp_path: Path) -> None:
    kept = precious(tmp_path / "precious")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / NAME).symlink_to(kept)
    assert_refused(tmp_path / "root", kept)


def test_a_link_at_the_usual_place_to_somebodys_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = precious(tmp_path / "ssd")
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / NAME).symlink_to(kept)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = state(kept)
    with pytest.raises(DeviceError, match="is not edgeopt's folder"):
        at(None)
    assert state(kept) == before


def test_somebodys_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, precious(tmp_path / NAME))


def _line_end(folder: Path) -> None:
    (folder / "\n").write_text("mine")


def _hidden(folder: Path) -> None:
    (folder / "..hidden").write_text("mine")


def _other_mark(folder: Path) -> None:
    (folder / MARK).write_text("mine\n")


def _mark_and_line_end(folder: Path) -> None:
    (folder / f"{MARK}\n").write_text("")


def _linked_mark(folder: Path) -> None:
    with at(folder.parent / "other") as device:
        (folder / MARK).symlink_to(Path(device.root, MARK))


def _dangling_mark(folder: Path) -> None:
    (folder / MARK).symlink_to(folder / "nowhere")


def _mark_folder(folder: Path) -> None:
    (folder / MARK).mkdir()


def _mark_pipe(folder: Path) -> None:
    os.mkfifo(folder / MARK)


def _store(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "device-0123456789abcdef.sh").write_text("mine")


@pytest.mark.parametrize(
    "fill",
    [_line_end, _hidden, _other_mark, _mark_and_line_end, _linked_mark, _dangling_mark, _mark_folder, _mark_pipe, _store],
)
def test_what_only_looks_empty_or_marked_is_refused(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    (tmp_path / NAME).mkdir(mode=0o755)
    fill(tmp_path / NAME)
    names, mode = sorted(os.listdir(tmp_path / NAME)), (tmp_path / NAME).stat().st_mode
    with pytest.raises(DeviceError, match="is not edgeopt's folder"):
        at(tmp_path)
    assert sorted(os.listdir(tmp_path / NAME)) == names and (tmp_path / NAME).stat().st_mode == mode


def of_before(folder: Path) -> Path:
    """The folder as an edgeopt left it that wrote no mark; the name of its own half is the digest of that version."""
    own_half = b"#!/bin/sh\necho of before\n"
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "model.part").write_text("sent in part")
    (folder / "runtimes" / "0123456789abcdef").mkdir(parents=True)
    (folder / "sessions" / ".1700000000-01234567").mkdir(parents=True)
    (folder / "lock").symlink_to("1700000000-01234567")
    (folder / f"device-{hashlib.sha256(own_half).hexdigest()[:16]}.sh").write_bytes(own_half)
    return folder


def test_a_folder_from_before_there_was_a_mark_is_taken_and_a_listing_changes_nothing(tmp_path: Path) -> None:
    folder = of_before(tmp_path / NAME)
    before = state(folder)
    (row,) = inventory([DeviceSpec(name="here", url="local", root=str(tmp_path))], refuse)
    assert not row.error and state(folder) == before
    with at(tmp_path) as device, device.session():
        assert (folder / MARK).is_file()
    with at(tmp_path) as device:
        device.clean()
    assert not folder.exists()


def test_one_from_before_whose_mark_met_a_full_disk_is_taken(tmp_path: Path) -> None:
    (of_before(tmp_path / NAME) / MARK).touch()
    with at(tmp_path) as device, device.session():
        assert (tmp_path / NAME / MARK).read_bytes()


def _thesis(folder: Path) -> None:
    (folder / "thesis.txt").write_text("mine")


def _changed_half(folder: Path) -> None:
    (half,) = folder.glob("device-*.sh")
    half.write_text("mine")


def _short_name(folder: Path) -> None:
    (half,) = folder.glob("device-*.sh")
    half.rename(folder / "device-.sh")


def _linked_store(folder: Path) -> None:
    shutil.rmtree(folder / "store")
    (folder / "store").symlink_to(folder.parent)


@pytest.mark.parametrize("change", [_thesis, _hidden, _line_end, _changed_half, _short_name, _linked_store, _dangling_mark])
def test_what_is_only_like_a_folder_from_before_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = of_before(tmp_path / NAME)
    change(folder)
    assert_refused(tmp_path, folder)


@pytest.mark.parametrize("unwritten", [False, True], ids=["empty", "an empty mark, of a full disk"])
def test_an_empty_folder_is_taken_also_through_a_link_which_stays(tmp_path: Path, unwritten: bool) -> None:
    (tmp_path / "ssd").mkdir()
    if unwritten:
        (tmp_path / "ssd" / MARK).touch()
    (tmp_path / NAME).symlink_to("ssd")
    for _ in range(2):
        with at(tmp_path) as device, device.session() as session:
            session.write("job.json", b"{}")
        assert (tmp_path / "ssd" / MARK).is_file()
        with at(tmp_path) as device:
            device.clean()
        assert (tmp_path / NAME).is_symlink() and os.listdir(tmp_path / "ssd") == []


def test_clean_follows_no_link_in_the_folder(tmp_path: Path) -> None:
    kept = precious(tmp_path / "precious")
    before = state(kept)
    with at(tmp_path / "root") as device:
        for name in ("linked", ".linked", "sessions"):
            Path(device.root, name).symlink_to(kept)
        device.clean()
    assert state(kept) == before and not Path(device.root).exists()


def test_clean_removes_nothing_where_the_mark_has_gone(tmp_path: Path) -> None:
    with at(tmp_path) as device:
        Path(device.root, "thesis.txt").write_text("mine")
        Path(device.root, MARK).unlink()
        with pytest.raises(DeviceError, match="is not edgeopt's folder"):
            device.clean()
    assert Path(device.root, "thesis.txt").read_text() == "mine"


def test_the_mark_stays_while_anything_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "programs" / "rm"
    slow.write_text('#!/bin/sh\ncase $2 in */stuck) exit 1 ;; esac\nexec /bin/rm "$@"\n')
    slow.chmod(0o755)
    with at(tmp_path) as device:
        Path(device.root, "stuck").touch()
        with pytest.raises(DeviceError, match="could not remove its folder"):
            device.clean()
        assert sorted(os.listdir(device.root)) == [MARK, "stuck"]
    slow.unlink()
    with at(tmp_path) as device:
        device.clean()
    assert not Path(device.root).exists()


def test_several_that_come_at_once_all_get_the_folder(tmp_path: Path) -> None:
    found: list[str] = []

    def come() -> None:
        with at(tmp_path) as device:
            found.append(device.root)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(tmp_path / NAME)] * 8


def test_a_listing_makes_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "disk" / NAME).mkdir(parents=True, mode=0o755)
    before = state(tmp_path / "disk")
    for root in ("disk", "nowhere"):
        (row,) = inventory([DeviceSpec(name="here", url="local", root=str(tmp_path / root))], refuse)
        assert not row.error and row.facts is not None and row.facts.free_bytes
    assert state(tmp_path / "disk") == before and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ("~", NAME),
        ("~/", NAME),
        ("~/x", f"x/{NAME}"),
        ("-rf", f"-rf/{NAME}"),
        ("x", f"x/{NAME}"),
        (NAME, NAME),
        ("./~y", f"~y/{NAME}"),
    ],
)
def test_a_root_may_be_named_from_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, place: str
) -> None:
    home = tmp_path / "my home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with at(root) as device:
        assert Path(device.root).resolve() == home / place and Path(device.root, MARK).is_file()
        assert stat.S_IMODE(Path(device.root).stat().st_mode) == 0o700
        with device.session() as session:
            session.write("job.json", b"{}")
        device.clean()
    assert not (home / place).exists() and {path.name for path in home.iterdir()} <= {"x", "-rf", "~y"}


@pytest.mark.parametrize("kind", ["missing", "a file"])
@pytest.mark.parametrize("root", [None, "~/x", "x"])
def test_a_home_that_is_no_folder_is_said_and_another_root_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, root: str | None
) -> None:
    home = tmp_path / "home"
    if kind == "a file":
        home.touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(DeviceError, match="no usable home folder") as caught:
        at(root)
    assert str(home) in caught.value.why and "root = " in caught.value.fix
    with at(tmp_path / "disk") as device:
        device.clean()
    assert not home.is_dir()


def test_a_place_where_nothing_can_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot be used") as caught:
        at(tmp_path / "file" / "x")
    assert "Not a directory" in caught.value.why and "root = " in caught.value.fix
