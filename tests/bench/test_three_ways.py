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
from edgeopt.references import load_model
from tests.devices.adbd import Adbd
from tests.devices.arm64 import Board, arm64
from tests.test_pipeline import NET

__all__ = ["arm64"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TARGETS = ("arm-ort", "arm-xnnpack")


@pytest.fixture(scope="module")
def folder(arm64: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder: a bundle, and devices.toml with the board twice, each time with a folder of its own there."""
    found = tmp_path_factory.mktemp("three")
    (found / "net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEOPT_CACHE", str(found / "cache"))
        edgeopt.export(load_model(f"{found}/net.py:model"), targets=TARGETS, out=found / "bundle")
    with Adbd(arm64.files, arm64.prefix, owner=(arm64.uid, arm64.uid)) as phone:
        devices = {"board": arm64.url, "phone": f"adb://{phone.address}"}
        text = (f'[{name}]\nurl = "{url}"\nroot = "{arm64.home}/{name}"\n' for name, url in devices.items())
        (found / "devices.toml").write_text("\n".join(text))
        yield found


def edgeopt_said(folder: Path, arm64: Board, *arguments: str) -> str:
    """What the command line prints, run by a user whose home and cache are in ``folder``."""
    own = {"EDGEOPT_SSH_CONFIG": str(arm64.ssh_config), "XDG_CONFIG_HOME": str(folder), "COLUMNS": "160"}
    own |= {"XDG_CACHE_HOME": str(folder / "cache"), "EDGEOPT_CACHE": os.environ.get("EDGEOPT_CACHE", "")}
    command = [sys.executable, "-m", "edgeopt.cli", *arguments]
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
    assert {name: run.facts.machine for name, run in runs.items() if run.facts} | {"local": ""} == {
        "local": "", "board": "aarch64", "phone": "aarch64",
    }  # fmt: skip
    for run in runs.values():
        assert [result.status for result in run.results] == ["ok", "ok"], run.reason
        for result in run.results:
            assert result.measurement is not None
            assert result.measurement.accuracy == runs["local"].results[0].measurement.accuracy  # type: ignore[union-attr]
            assert result.measurement.agreement is not None
            assert (result.measurement.agreement.sqnr_db or 0) > 20
        assert sum(run.device in line for line in table.splitlines()) >= len(run.results)
    assert subprocess.run(
        [*arm64.prefix, "uname", "-m"], capture_output=True, text=True, check=True
    ).stdout.strip() == "aarch64"  # fmt: skip
    for name in ("board", "phone"):
        assert edgeopt_said(folder, arm64, "devices", "clean", name) == f"{name} is clean\n"
        assert not (arm64.files / arm64.home.lstrip("/") / name).exists()
