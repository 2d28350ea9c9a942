"""Folders that end with their process, and what is left where that was killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgeopt.support.cache import Cache
from edgeopt.support.scratch import MARK, Scratch, clear

ROOT = Path(__file__).parents[2]


def killed(code: str, *arguments: str, **environment: str) -> None:
    """Runs ``code``, which ends itself with SIGKILL."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


IN_A_SCRATCH = """
    import os, signal
    from edgeopt.support.scratch import scratch
    with scratch() as folder:
        (folder / "half").mkdir()
        (folder / "half" / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_gone_after_its_block(tmp_path: Path) -> None:
    one = Scratch(tmp_path, "edgeopt-")
    (one.path / "deep" / "er").mkdir(parents=True)
    (one.path / "link").symlink_to("/etc")
    assert one.path.stat().st_mode & 0o077 == 0
    one.close()
    assert os.listdir(tmp_path) == [] and Path("/etc").is_dir()


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    killed(IN_A_SCRATCH, TMPDIR=str(tmp_path))
    assert len(os.listdir(tmp_path)) == 1
    clear(tmp_path, "edgeopt-")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_use_stays_and_so_does_one_that_is_not_edgeopt_s(tmp_path: Path) -> None:
    used = Scratch(tmp_path, "edgeopt-")
    for name in ("edgeopt-thesis", "edgeopt-empty", "edgeopt-link", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "edgeopt-thesis" / "chapter").write_text("mine")
    (tmp_path / "edgeopt-empty" / MARK).touch()
    (tmp_path / "edgeopt-link" / MARK).symlink_to(tmp_path / "edgeopt-thesis" / "chapter")
    os.mkfifo(tmp_path / "other" / MARK)
    (tmp_path / "edgeopt-elsewhere").symlink_to(tmp_path / "edgeopt-thesis")
    before = sorted(os.listdir(tmp_path))
    clear(tmp_path, "edgeopt-")
    clear(tmp_path, "other")
    assert sorted(os.listdir(tmp_path)) == before
    used.close()
    assert (tmp_path / "edgeopt-thesis" / "chapter").read_text() == "mine"


def test_what_a_killed_process_was_putting_into_the_cache_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from edgeopt.support.cache import Cache
        with Cache(Path(sys.argv[1])).building("key") as folder:
            (folder / "file").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed(code, str(tmp_path))
    assert len(os.listdir(tmp_path / "v1")) == 1
    cache = Cache(tmp_path)
    assert os.listdir(tmp_path / "v1") == []
    cache.put_json("key", 1)
    assert cache.get_json("key") == 1 and os.listdir(tmp_path / "v1") == ["key"]


def test_what_libraries_leave_in_a_killed_worker_s_temporary_folder_goes_with_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = """
        import os, signal, sys
        from pathlib import Path
        from edgeopt.worker.client import WorkerHost
        host = WorkerHost()
        host.run("tests.worker.chores:leave_a_folder", {}, timeout_s=60, log=Path(sys.argv[1]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed(code, str(tmp_path / "log"))
    (left,) = [name for name in os.listdir(tmp_path) if name != "log"]
    assert any(name.startswith("tmp") for name in os.listdir(tmp_path / left))
    clear(tmp_path, "edgeopt-")
    assert os.listdir(tmp_path) == ["log"]
