"""One call for this computer, an ARM64 computer over SSH and one over ADB: real runtimes, real aarch64, one table."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeopt
from edgeopt.bench.types import DeviceRun
from edgeopt.core import from_json
from edgeopt.model.references import load_model
from tests.emulators.adbd import Adbd
from tests.emulators.arm64 import Board, arm64
from tests.pipeline.test_pipeline import NET
from tests.user_folders import written

__all__ = ["arm64"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
TARGETS = ("arm-ort", "arm-xnnpack")


@pytest.fixture(scope="module")
def folder(arm64: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder: a bundle, and devices.toml with the board twice, each time with a folder of its own there."""
    with written(tmp_path_factory.mktemp("three"), NET) as found:
        edgeopt.export(load_model(f"{found}/net.py:model"), targets=TARGETS, out=found / "bundle")
    with Adbd(arm64.files, arm64.prefix, owner=(arm64.uid, arm64.uid)) as phone:
        here = f'[local]\nurl = "local"\nroot = "{found}/local"\n'
        devices = {"board": arm64.url, "phone": f"adb://{phone.address}"}
        text = (f'[{name}]\nurl = "{url}"\nroot = "{arm64.home}/{name}"\n' for name, url in devices.items())
        (found / "devices.toml").write_text("\n".join((here, *text)))
        yield found


def edgeopt_said(folder: Path, arm64: Board, *arguments: str) -> str:
    """What the command line prints, run by a user whose configuration is in ``folder``."""
    own = {"EDGEOPT_SSH_CONFIG": str(arm64.ssh_config), "XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "160"}
    own |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.unpaused", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_bundle_runs_in_three_ways_in_one_call_and_computes_the_same_everywhere(folder: Path, arm64: Board) -> None:
    for name in ("board", "phone"):
        assert "onnxruntime" in edgeopt_said(folder, arm64, "devices", "setup", name)
    listed = edgeopt_said(folder, arm64, "devices")
    assert "3 devices, all reachable" in listed
    assert "Cortex-A76" in listed

    names = ("local", "board", "phone")
    wanted = [part for name in names for part in ("--device", name)] + [
        part for target in TARGETS for part in ("--target", target)
    ]
    quick = ("--launches", "1", "--runs", "30", "--seconds", "0.2", "--evaluate", "net.py:evaluate")
    table = edgeopt_said(folder, arm64, "bench", "bundle", *wanted, *quick)

    found = [from_json(DeviceRun, path.read_bytes()) for path in sorted((folder / "runs").glob("*/result.json"))]
    runs = {run.device: run for run in found}
    assert set(runs) == set(names)
    for name in ("board", "phone"):
        facts = runs[name].facts
        assert facts is not None
        assert facts.machine == "aarch64"
    expected = [result.measurement.accuracy for result in runs["local"].results if result.measurement]
    for run in runs.values():
        assert [result.status for result in run.results] == ["ok", "ok"], run.reason
        measured = [result.measurement for result in run.results if result.measurement]
        assert [one.accuracy for one in measured] == expected
        agreements = [one.agreement for one in measured if one.agreement]
        assert len(agreements) == len(TARGETS)
        assert all((one.sqnr_db or 0) > 20 for one in agreements)
        assert sum(run.device in line for line in table.splitlines()) >= len(run.results)
    for name in ("board", "phone"):
        assert edgeopt_said(folder, arm64, "devices", "clean", name) == f"{name} is clean\n"
        assert not (arm64.files / arm64.home.lstrip("/") / name / "edgeopt-device").exists()
