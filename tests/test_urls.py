"""No password of a URL is written, shown or taken."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeopt.cli import app
from edgeopt.devices import known
from edgeopt.errors import UnknownName, UsageError
from edgeopt.urls import redacted

SECRET = "geheim1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ssh://pi:geheim1@h:22", "ssh://pi:...@h:22"), ("ssh://pi:geheim1@[bad", "ssh://pi:...@[bad"),
        ("pi:geheim1@h", "pi:...@h"), ("ssh://pi:p@ss@h", "ssh://pi:...@h"), ("ssh://:geheim1@h", "ssh://:...@h"),
        ("ssh://pi:a/b?c:d@h", "ssh://pi:...@h"), ("ssh://pi@h:22", "ssh://pi@h:22"),
        ("adb://127.0.0.1:5555", "adb://127.0.0.1:5555"), ("ssh://[fe80::1]:22", "ssh://[fe80::1]:22"), ("local", "local"),
    ],
)  # fmt: skip
def test_a_password_is_told_from_a_port(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["ssh://pi:geheim1@h", "adb://x:geheim1@h", "ssh://pi:geheim1@[bad", "pi:geheim1@h"])
def test_no_command_takes_or_shows_one(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for command in (["devices", "add", "x", url], ["devices", "clean", url], ["devices", "setup", url]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code != 0 and SECRET not in done.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_one_in_a_file_is_refused_with_the_device_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text('[pi5]\nurl = "ssh://pi:geheim1@h"\n')
    with pytest.raises(UsageError, match="the URL of device pi5") as caught:
        known.known()
    assert SECRET not in caught.value.message()


def test_an_unknown_name_that_looks_like_one_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName) as caught:
        known.resolve("pi:geheim1@h")
    assert SECRET not in caught.value.message()
