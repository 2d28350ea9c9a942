"""Files are written whole or not at all, every failure names its cause, and digests mean what sha256sum means."""

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import OutputError
from edgeopt.support.files import (
    cache_folder,
    config_folder,
    make_folder,
    output_error,
    safe_relative,
    sha256_of,
    size_of,
    write_atomic,
)

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def test_write_atomic_replaces_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.json"]


def test_write_atomic_gives_the_permissions_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_missing_folder_is_an_output_error_with_cause_and_next_step(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_atomic(tmp_path / "missing" / "file", "x")
    assert "does not exist" in caught.value.why
    assert caught.value.fix


def test_a_file_in_place_of_a_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="stands in the way"):
        make_folder(tmp_path / "file")


def test_writing_over_a_folder_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_atomic(tmp_path / "folder", "x")
    assert os.listdir(tmp_path) == ["folder"]


@needs_permissions
def test_a_folder_without_write_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        write_atomic(tmp_path / "file", "x")


def test_a_write_that_fails_half_way_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    error = output_error(Path("out"), caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert "disk is full" in error.why
    assert "free some space" in error.fix


def test_folder_digest_is_what_the_documented_command_prints(tmp_path: Path) -> None:
    for name in ("b.bin", "a/é.bin", "a/B.bin", "a.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    command = r"find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert sha256_of(tmp_path) == printed.split()[0]


def test_folder_digest_changes_with_content_and_with_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = sha256_of(tmp_path)
    (tmp_path / "a").write_text("2")
    second = sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, sha256_of(tmp_path)}) == 3


def test_digest_and_size_of_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"678")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"12345").hexdigest()
    assert (size_of(tmp_path / "a"), size_of(tmp_path)) == (5, 8)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../../b", "a\\b", "C:/x", "a\nb", ".", "\x1b[31m"])
def test_paths_that_climb_out_or_break_lists_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        safe_relative(path)


@given(st.text(max_size=30))
def test_an_accepted_path_always_stays_below_its_folder(path: str) -> None:
    try:
        relative = safe_relative(path)
    except ValueError:
        return
    root = "/root/folder"
    assert os.path.normpath(os.path.join(root, relative)).startswith(root + "/")


def test_importing_files_imports_no_heavy_library() -> None:
    code = "import sys, edgeopt.support.files; assert not {'torch', 'numpy', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("folder", "variable", "usual"),
    [(config_folder, "XDG_CONFIG_HOME", ".config"), (cache_folder, "XDG_CACHE_HOME", ".cache")],
)
def test_the_users_folders_are_where_the_environment_says_and_a_relative_one_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Callable[[], Path], variable: str, usual: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    assert folder() == tmp_path / "own" / "edgeopt"
    for ignored in ("", "relative", "./own"):
        monkeypatch.setenv(variable, ignored)
        assert folder() == tmp_path / usual / "edgeopt"
    monkeypatch.delenv(variable)
    assert folder() == tmp_path / usual / "edgeopt"
