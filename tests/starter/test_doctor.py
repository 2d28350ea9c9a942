"""The doctor: what it finds here, what it says of what is missing, and that it stays light."""

import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgeopt.starter import doctor
from edgeopt.support import extras

ROOT = Path(__file__).parents[2]
FOR_WORK_ON_IT = {"all", "docs", "examples", "test"}
"""Extras that the doctor does not look at: those of the others, and what is for who works on edgeopt."""


def by_name() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.diagnose()}


def test_every_extra_is_covered_and_found_where_it_is_installed() -> None:
    checks = by_name()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in declared.keys() - FOR_WORK_ON_IT:
        for requirement in map(Requirement, declared[extra]):
            assert requirement.name == "edgeopt" or checks[requirement.name].ok, requirement
    assert {"python", "cache", "cpu", "memory", "disk"} <= set(checks)


def test_every_extra_has_a_purpose_and_every_package_of_it_a_module_of_its_name() -> None:
    assert set(doctor.PURPOSES) == set(extras.names()) - FOR_WORK_ON_IT
    for extra in doctor.PURPOSES:
        assert extras.missing(extra) == (), extra


def test_what_is_missing_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version

    def version(name: str) -> str:
        if name == "coremltools":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    check = by_name()["coremltools"]
    assert (check.ok, check.found, check.fix) == (False, "not installed", "pip install 'edgeopt[coreml]'")


def test_an_untested_version_is_named_with_the_tested_range(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "3.0.0" if name == "torch" else real(name))
    check = by_name()["torch"]
    assert not check.ok
    assert "3.0.0, not in the tested range" in check.found
    assert "pip install 'edgeopt[torch]'" in check.fix


def test_the_cache_is_measured_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    assert by_name()["cache"].ok
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / "entry").open("wb") as file:
        file.truncate(doctor.GIB)
    assert "1.00 GiB" in by_name()["cache"].found


def test_a_cache_path_below_a_file_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "file" / "cache"))
    check = by_name()["cache"]
    assert not check.ok
    assert "EDGEOPT_CACHE" in check.fix


def test_the_ways_to_devices_are_told_and_none_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(unused.getsockname()[1]))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        checks = by_name()
    assert "adb start-server" in checks["adb server"].found
    assert "ssh-keygen" in checks["ssh"].found
    assert "ai.google.dev/edge/litert" in checks["benchmark_model"].found
    assert "onnxruntime.ai" in checks["onnxruntime_perf_test"].found
    assert all(checks[name].ok for name in ("adb server", "ssh", "benchmark_model", "onnxruntime_perf_test"))


def test_ssh_without_a_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "openssh-client" in by_name()["ssh"].found


def test_ssh_keys_and_agent_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").touch()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        assert by_name()["ssh"].found == "id_ed25519, an agent"


def test_source_code_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "distribution", nothing)
    (check,) = doctor.diagnose()
    assert not check.ok and "pip install" in check.fix


def test_no_runtime_is_imported() -> None:
    code = (
        "import sys; from edgeopt.starter.doctor import diagnose; diagnose();"
        "from edgeopt import registry; registry.formats();"
        "from edgeopt.targets import loader; [loader.load(name) for name in loader.names()];"
        "print(*({'torch', 'numpy', 'onnx', 'onnxruntime', 'coremltools', 'litert_torch'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""
