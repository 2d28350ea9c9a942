"""The disk is full where results go: what was measured is told all the same, and nothing half-written stays.

Or it is full, or can no longer be written, on the device.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.bench import run as module
from edgeopt.bench.kept_lines import KeptLines
from edgeopt.bench.run import Benchmark, Request
from edgeopt.errors import DeviceError, DeviceFull, OutputError
from tests.bench.faults import Bed, identity
from tests.bench.parts import QUICK, here, onnx_file, refuse

ROOT = Path(__file__).parents[2]
NO_DISK = "unshare --user --map-root-user --mount mount -t tmpfs none /mnt"
"""A disk of one's own, in a namespace that ends with its process."""


def test_lines_for_which_there_is_no_room_are_given_up_whole(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").symlink_to("/dev/full")
    lines = KeptLines(tmp_path / "lines.jsonl")
    lines.keep("{}")
    lines.keep("{}")
    lines.close()
    assert lines.lost == "lines.jsonl is not kept: the disk is full"
    assert os.listdir(tmp_path) == []


def test_a_result_that_cannot_be_written_is_still_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: str) -> None:
        raise OutputError(f"cannot write {path}", why="the disk is full")

    monkeypatch.setattr(module, "write_atomic", full)
    one = onnx_file(tmp_path)
    request = Request(
        artifacts=[one], devices=[here(tmp_path)], settings=replace(QUICK, launches=1), out=tmp_path / "runs", ask=refuse
    )
    benchmark = Benchmark(request)
    (found,) = benchmark.run()
    assert found.results[0].status == "ok" and found.results[0].measurement is not None
    (why,) = benchmark.unwritten
    assert why.why == "the disk is full"
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.name in ("result.json", "lines.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "code"), [("4k", OutputError.exit_code), ("1m", 0)])
def test_bench_onto_a_disk_of_that_size(tmp_path: Path, size: str, code: int) -> None:
    if not shutil.which("unshare") or subprocess.run(NO_DISK.split(), capture_output=True).returncode:
        pytest.skip("no namespaces here")
    artifact, disk = onnx_file(tmp_path).path, tmp_path / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size={size} none {disk}
        {sys.executable} -c 'from edgeopt.cli.app import main; main()' bench {artifact} --launches 1 --seconds 0.1 --runs 5 \\
            --max-seconds 2 --format json --out {disk}/runs
        code=$?
        find {disk} -type f -printf "left: %f\\n" >&2
        exit $code
    """
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["results"][0]["status"] == "ok", "what was measured is told"
    if code:
        assert "the disk is full" in done.stderr
        assert "left: result.json" not in done.stderr and "left: lines.jsonl" not in done.stderr
    else:
        assert "left: result.json" in done.stderr and "left: lines.jsonl" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "error", "words"),
    [
        ("full", DeviceFull, ("x has no room", "No space left", "make room", "edgeopt devices clean x")),
        ("read_only", DeviceError, ("edgeopt's folder on x cannot be written", "Read-only", "look at its disk")),
    ],
)
def test_a_disk_of_the_device_that_takes_no_more_while_it_measures(
    tmp_path: Path, after: str, error: type[DeviceError], words: tuple[str, ...]
) -> None:
    if not shutil.which("unshare") or subprocess.run(NO_DISK.split(), capture_output=True).returncode:
        pytest.skip("no namespaces here")
    device = Bed(tmp_path).device("x", "local", after=after)
    identity(tmp_path / "identity.onnx")
    (disk := tmp_path / "devices").mkdir()
    toml = f'[x]\nurl = "local"\nroot = "{device.root}"\npython = "{device.python}"\n'
    (tmp_path / "devices.toml").write_text(toml)
    script = f"""
        mount -t tmpfs -o size=8m none {disk}
        {sys.executable} -m edgeopt.cli bench identity.onnx --device x --launches 1 --seconds 0.2 --runs 150 --format json
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "DISK": str(disk)}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == error.exit_code, done.stderr
    (result,) = json.loads(done.stdout)[0]["results"]
    assert result["error"] == error.__name__
    for word in words:
        assert word in result["reason"]
