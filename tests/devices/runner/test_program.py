"""The runner as a program: its job, its archive, its Pythons, its output."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices.runner import job as runner_job
from edgeopt.devices.runner.failures import Failure
from edgeopt.devices.session.runner_archive import archive
from tests.devices.runner.jobs import relu, run


def test_what_others_print_on_standard_output_goes_to_stderr(tmp_path: Path) -> None:
    code = (
        "import os, sys; from edgeopt_runner.lines import Lines; lines = Lines.instead_of_stdout();"
        "print('python'); sys.stdout.flush(); os.system('echo native'); lines.write('end', n=1)"
    )
    (tmp_path / "runner.zip").write_bytes(archive())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "runner.zip")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, text=True, check=True)
    assert done.stdout == '{"event":"end","n":1}\n'
    assert "python" in done.stderr and "native" in done.stderr


def test_a_wrong_command_line_says_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "runner.zip").write_bytes(archive())
    done = subprocess.run([sys.executable, str(tmp_path / "runner.zip")], capture_output=True, text=True, check=False)
    assert done.returncode == 64 and "job.json" in done.stderr


GOOD = {"schema": 1, "mode": "measure", "format": "onnx", "artifact": __file__, "inputs": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"mode": "dance"}, "mode"),
        ({"format": None}, "format"),
        ({"artifact": "/nowhere"}, "/nowhere"),
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
        ({"min_seconds": -1}, "min_seconds"),
        ({"min_seconds": float("nan")}, "min_seconds"),
        ({"cpus": []}, "cpus"),
        ({"cpus": ["0"]}, "cpus"),
        ({"surprise": 1}, "surprise"),
        ({"mode": "predict"}, "outputs"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "complex64", "shape": []}]}, "dtype"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "int8", "shape": [-1]}]}, "shape"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "int8", "shape": [1], "more": 1}]}, "more"),
        ({"inputs": ["x"]}, "object"),
        ({"samples": [1]}, "list of tensors"),
        ({"delegate": {}}, "path"),
    ],
)
def test_mistakes_in_a_job_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "job.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(Failure, match=words) as raised:
        runner_job.read_job(str(tmp_path / "job.json"))
    assert raised.value.kind == "bad_job"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "samples", "cpus", "delegate", "threads", "outputs"]), json_values))
def test_any_json_is_a_job_or_a_named_mistake(tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-job.json"
    path.write_text(json.dumps({**GOOD, **change}))
    try:
        runner_job.read_job(str(path))
    except Failure as failure:
        assert failure.kind == "bad_job"


def sources() -> list[tuple[str, str]]:
    with zipfile.ZipFile(BytesIO(archive())) as packed:
        return [(name, packed.read(name).decode()) for name in packed.namelist()]


def test_the_archive_is_the_same_every_time_and_holds_every_file() -> None:
    first = archive()
    archive.cache_clear()
    assert archive() == first
    names = [name for name, _ in sources()]
    assert "__main__.py" in names and "edgeopt_runner/runtimes/litert.py" in names


@pytest.mark.parametrize(("name", "source"), sources(), ids=[name for name, _ in sources()])
def test_the_runner_is_python_3_8_and_needs_nothing_but_the_standard_library(name: str, source: str) -> None:
    tree = ast.parse(source, name, feature_version=(3, 8))
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and name != "__main__.py":
            imported = [node.module or ""]
        assert all(module.split(".")[0] in sys.stdlib_module_names for module in imported), imported


def old_pythons() -> list[str]:
    found = []
    for version in ("3.8", "3.9", "3.10", "3.12", "3.13", "3.14"):
        path = shutil.which(f"python{version}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def test_other_pythons_start_the_runner(tmp_path: Path) -> None:
    pythons = old_pythons()
    if not pythons:
        pytest.skip("no other Python is installed here")
    for python in pythons:
        done = run(tmp_path, {**relu(tmp_path), "format": "tensorrt"}, python)
        assert done.error["kind"] == "missing_runtime", done.stderr


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 9), (3, 7, 17)])
def test_an_older_python_says_that_it_is_too_old(tmp_path: Path, version: tuple[int, int, int]) -> None:
    """Real ones cannot be had everywhere: this one only says that it is old."""
    (tmp_path / "runner.zip").write_bytes(archive())
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.version_info = {version}\n")
    command = [sys.executable, str(tmp_path / "runner.zip"), "job.json"]
    done = subprocess.run(command, capture_output=True, check=False, env={"PYTHONPATH": str(tmp_path)})
    event = json.loads(done.stdout)
    assert (done.returncode, event["event"], event["kind"]) == (1, "error", "old_python")
    assert event["message"].endswith(f"is Python {'.'.join(map(str, version))}; the runner needs 3.8 or newer")


def test_the_first_file_is_python_2_too() -> None:
    """Print with brackets and ``%`` are the same in both; no f-string, no annotation, nothing that only newer ones can read."""
    (source,) = [source for name, source in sources() if name == "__main__.py"]
    assert "f'" not in source and 'f"' not in source and "from __future__" not in source
