"""The lock beside an output: one export at a time, and nothing of anybody else's is removed, followed or waited for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.bundle.output_lock import OutputLock
from edgeopt.errors import OutputError


def _file(path: Path) -> None:
    path.write_text("precious")


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def _link_to_a_file(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to(path.parent / "elsewhere")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("precious")


def state(folder: Path) -> list[tuple[str, int, str]]:
    return [(str(one), one.lstat().st_ino, one.read_text() if one.is_file() else "") for one in sorted(folder.rglob("*"))]


@pytest.mark.parametrize("make", [_file, _link, _link_to_a_file, _fifo, _folder])
def test_what_is_somebody_else_s_stays_as_it_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / ".b.lock")
    before = state(tmp_path)
    with pytest.raises(OutputError, match="somebody else's"):
        OutputLock(tmp_path / "b")
    assert state(tmp_path) == before


def test_its_own_is_gone_afterwards_also_one_that_a_killed_export_left(tmp_path: Path) -> None:
    OutputLock(tmp_path / "b").release()
    assert list(tmp_path.iterdir()) == []
    code = "import os, pathlib; from edgeopt.bundle.output_lock import *; one = OutputLock(pathlib.Path('b')); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]
    OutputLock(tmp_path / "b").release()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_locks_and_stays(tmp_path: Path) -> None:
    (tmp_path / ".b.lock").touch()
    first = OutputLock(tmp_path / "b")
    with pytest.raises(OutputError, match="another export"):
        OutputLock(tmp_path / "b")
    first.release()
    assert (tmp_path / ".b.lock").read_bytes() == b""


def test_one_that_took_its_place_meanwhile_is_not_removed(tmp_path: Path) -> None:
    lock = OutputLock(tmp_path / "b")
    (tmp_path / ".b.lock").unlink()
    (tmp_path / ".b.lock").write_text("precious")
    lock.release()
    assert (tmp_path / ".b.lock").read_text() == "precious"
