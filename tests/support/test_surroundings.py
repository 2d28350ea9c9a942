"""User code that takes the program's streams or places of modules away: the program goes on, and is heard."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgeopt.support.surroundings import kept

RUDE = "os.close(1); os.close(2); sys.stdout = sys.stderr = None; sys.path.clear()"
MODEL = """
import os, sys
import torch
import edgeopt

{importing}

class Net(torch.nn.Linear):
    def forward(self, x):
        {running}
        return super().forward(x)

model = edgeopt.Model(Net(8, 4).eval(), torch.ones(1, 8))
"""


def plan(folder: Path, **places: str) -> subprocess.CompletedProcess[str]:
    (folder / "rude.py").write_text(MODEL.format(**{"importing": "", "running": "pass"} | places))
    command = [sys.executable, "-m", "edgeopt.cli", "plan", "rude.py:model", "--target", "x86-fbgemm"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def test_a_plan_is_told_whatever_an_import_does_to_the_streams(tmp_path: Path) -> None:
    done = plan(tmp_path, importing=RUDE)
    assert (done.returncode, "x86-fbgemm" in done.stdout) == (0, True), done.stderr


def test_what_fails_is_told_whatever_forward_does_to_the_streams(tmp_path: Path) -> None:
    done = plan(tmp_path, running=RUDE)
    assert done.returncode and "error:" in done.stderr, done.stderr


@pytest.mark.parametrize("where", ["importing", "running"])
def test_a_program_that_the_users_code_ends_by_force_does_not_end_well(where: str, tmp_path: Path) -> None:
    done = plan(tmp_path, **{where: "os._exit(0)"})
    assert done.returncode and "os._exit(0)" in done.stderr and "rude.py, line" in done.stderr, done.stderr


def test_a_forked_process_may_end_by_force() -> None:
    code = """
import os
from edgeopt.support.surroundings import kept
with kept():
    child = os.fork()
    if not child:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with kept():
        pass
    try:
        os._exit(0)
    except SystemExit as end:
        print(end)
os._exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_thread_that_never_ends_is_left_behind(tmp_path: Path) -> None:
    done = plan(tmp_path, importing="import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()")
    assert (done.returncode, "x86-fbgemm" in done.stdout) == (0, True), done.stderr


def test_streams_and_module_places_are_as_they_were(tmp_path: Path) -> None:
    streams, path = (sys.stdout, sys.stderr), list(sys.path)
    before = [os.fstat(number).st_ino for number in (1, 2)]
    with kept():
        os.close(1)
        os.dup2(os.open(tmp_path / "elsewhere", os.O_CREAT | os.O_WRONLY), 2)
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        sys.path[:] = ["mine"]
    assert (sys.stdout, sys.stderr) == streams
    assert [os.fstat(number).st_ino for number in (1, 2)] == before
    assert sys.path == [*path, "mine"]
    sys.path[:] = path


def test_what_is_added_to_the_module_places_stays_where_it_was_put() -> None:
    path = list(sys.path)
    with kept():
        sys.path.insert(0, "first")
    assert sys.path == ["first", *path]
    sys.path[:] = path


def test_a_program_without_an_output_stays_without_one() -> None:
    code = "import os\nos.close(1)\nfrom edgeopt.support.surroundings import kept\nwith kept(): pass\nos.fstat(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Bad file descriptor" in done.stderr


def test_what_the_user_s_code_makes_an_error_of_is_one_inside_alone() -> None:
    before = list(warnings.filters)
    with kept():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.filterwarnings("ignore", message="theirs")
        with pytest.raises(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    added = [one for one in warnings.filters if one not in before]
    assert [one[0] for one in added] == ["ignore"] and all(one in warnings.filters for one in before)


def test_an_export_goes_on_where_the_model_s_file_makes_warnings_errors(tmp_path: Path) -> None:
    done = plan(tmp_path, importing="import warnings; warnings.simplefilter('error')")
    assert (done.returncode, "x86-fbgemm" in done.stdout) == (0, True), done.stderr
