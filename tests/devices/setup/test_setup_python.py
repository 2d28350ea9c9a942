"""The Python that ``devices.toml`` names is the one that is set up, and that then measures, on a device over SSH."""

import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgeopt.bench.inventory import inventory
from edgeopt.cli import app as cli
from edgeopt.devices.devices_toml import resolve
from edgeopt.devices.setup import pythons
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from tests.devices.session.test_session import eventually, refuse, running
from tests.devices.setup.test_setup import one_python, shared, stock
from tests.emulators.sshd import Server, sshd

__all__ = ["one_python", "shared", "stock"]

OWN = {"onnxruntime": "1.0.0", "ai-edge-litert": "2.0.0", "numpy": "2.0.0"}
BASE = Path(sys.executable).resolve()
Name = Callable[[str | None], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running_server:
        yield running_server


@pytest.fixture
def name(stock: None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Name:
    """Writes ``devices.toml``, with a ``python`` of the device x."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))
    monkeypatch.chdir(tmp_path)

    def write(python: str | None) -> None:
        line = "" if python is None else f"python = '{python}'\n"
        Path("devices.toml").write_text(f"[x]\nurl = '{server.url}'\nroot = '{tmp_path}'\n{line}")

    return write


def set_up() -> Result:
    return CliRunner().invoke(cli.app, ["devices", "setup", "x"])


def there() -> dict[str, str]:
    """The runtimes that a benchmark would use."""
    (row,) = inventory([resolve("x")], refuse)
    assert not row.error
    return {name: version for name, version in row.installed.items() if name in OWN}


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return str(path)


def test_the_python_of_devices_toml_is_set_up_and_measures(name: Name, tmp_path: Path) -> None:
    name(script(tmp_path / "wrapper", f"echo > '{tmp_path}/used'", f'exec {BASE} "$@"'))
    assert there() != OWN
    done = set_up()
    assert done.exit_code == 0, done.output
    (tmp_path / "used").unlink()
    assert there() == OWN and (tmp_path / "used").exists()


def test_a_name_in_path_and_a_virtual_environment_will_do(name: Name, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    for python in ("python3", str(tmp_path / "venv" / "bin" / "python3")):
        name(python)
        assert set_up().exit_code == 0
        assert there() == OWN


def test_what_was_set_up_for_another_python_is_not_used_with_the_one_that_is_named(name: Name, tmp_path: Path) -> None:
    name(None)
    assert set_up().exit_code == 0
    assert there() == OWN
    name(script(tmp_path / "wrapper", f'exec {BASE} "$@"'))
    assert there() != OWN
    assert set_up().exit_code == 0
    assert there() == OWN
    name(None)
    assert there() == OWN


@pytest.mark.parametrize(
    ("python", "why", "code"),
    [
        ("/bin/false", "exit code 1", 50),
        ("/bin/true", "does not say what it is", 50),
        ("/nowhere/python3", "there is no such program there", 50),
        ("~/python3", "name the whole path of a Python", 50),
        ("", "no Python there is to be used", 3),
    ],
)
def test_a_python_that_is_none_is_an_error_that_names_the_line(
    name: Name, tmp_path: Path, python: str, why: str, code: int
) -> None:
    name(python)
    done = set_up()
    assert done.exit_code == code, done.output
    said = " ".join(done.output.split())
    assert f"python = '{python}' of x in devices.toml" in said and why in said
    assert not (tmp_path / "edgeopt-device" / "runtimes").exists()


def test_one_that_hangs_is_too_and_is_ended(name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "_NAMED_S", 2.0)
    marker = f"9{time.monotonic_ns() % 10**8}"
    hanging = script(tmp_path / "hangs", f"sleep {marker}")
    name(hanging)
    done = set_up()
    assert done.exit_code == 55 and f"python = '{hanging}' of x in devices.toml" in " ".join(done.output.split())
    assert eventually(lambda: not running(f"sleep {marker}"))


def test_one_that_prints_without_end_is_too(name: Name, tmp_path: Path) -> None:
    endless = script(tmp_path / "endless", "exec yes")
    name(endless)
    done = set_up()
    assert done.exit_code == 60 and f"python = '{endless}' of x in devices.toml" in " ".join(done.output.split())


def test_one_that_no_wheel_is_for_is_named_with_its_line(name: Name, tmp_path: Path) -> None:
    old = script(tmp_path / "old", f'{BASE} "$@" | sed \'s/"version": *\\[3, *[0-9]*,/"version": [3, 6,/\'')
    name(old)
    done = set_up()
    said = " ".join(done.output.split())
    assert done.exit_code == 50 and "Python 3.6 is too old" in said and f"python = '{old}' in devices.toml" in said
