"""Somebody removes edgeopt's folder on a device, or a part of it, while it is used: that is what the result says."""

from pathlib import Path

import pytest

from edgeopt.bench.types import DeviceRun
from tests.bench.faults import Bed, assert_clear
from tests.bench.faults_ssh import bed, server
from tests.bench.parts import bench, tflite_file
from tests.bench.test_native_place import phone, tool
from tests.devices.native.test_native_output import GOLDEN
from tests.emulators.sshd import Server

__all__ = ["bed", "server"]


def assert_gone(run: DeviceRun, name: str) -> None:
    (result,) = run.results
    assert (result.status, result.error) == ("failed", "DeviceError"), result.reason
    assert_clear(result.error, result.reason, f"edgeopt's folder on {name} went away while it was used", "run it again")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["", "/store", "/sessions"])
@pytest.mark.parametrize("way", ["local", "ssh"])
def test_a_folder_that_is_removed_while_a_run_goes_on(bed: Bed, server: Server, what: str, way: str) -> None:
    url = server.url if way == "ssh" else "local"
    device = bed.device("x", url)
    python = Path(device.python or "")
    remove = f'case $1 in *.zip) (sleep 0.5; rm -rf "{bed.root("x")}{what}") & ;; esac'
    python.write_text(python.read_text().replace("exec ", f"{remove}\nexec "))
    (run,) = bed.bench(device, launches=2)
    assert_gone(run, "x")


def test_it_is_no_missing_tool_where_tools_measure(tmp_path: Path) -> None:
    path = tool(tmp_path, f"rm -rf '{tmp_path}/edgeopt-device'\ncat '{GOLDEN}/benchmark_model.xnnpack.txt'")
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, path))
    assert_gone(run, "phone")
