"""No password of a URL is written, shown or taken."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgeopt import registry
from edgeopt.cli.app import app
from edgeopt.devices import devices_toml
from edgeopt.errors import EdgeoptError, UnknownName, UsageError, redacted, redacted_text
from edgeopt.support import extras
from edgeopt.support.urls import refuse_password

SECRET = "geheim1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ssh://pi:geheim1@h:22", "ssh://pi:...@h:22"), ("ssh://pi:geheim1@[bad", "ssh://pi:...@[bad"),
        ("pi:geheim1@h", "pi:...@h"), ("ssh://pi:p@ss@h", "ssh://pi:...@h"), ("ssh://:geheim1@h", "ssh://:...@h"),
        ("ssh://pi:a/b?c:d@h", "ssh://pi:...@h"), ("ssh://pi@h:22", "ssh://pi@h:22"),
        ("ssh://pi:geheim1 x@h", "ssh://pi:...@h"), ("pi:a\tgeheim1@", "pi:...@"),
        ("ssh://my user:geheim1@h", "ssh://my user:...@h"),
        ("ssh://pi%3Ageheim1@h", "ssh://pi:...@h"), ("ssh://pi%253ageheim1@h", "ssh://pi:...@h"),
        ("ssh://pi://geheim1@h", "ssh://pi:...@h"), ("pi:x://geheim1@h", "pi:...@h"), ("ssh:/pi:geheim1@h", "ssh:...@h"),
        ("SSH://pi:geheim1@h", "SSH://pi:...@h"), ("a+b.c-d://pi:geheim1@x@h", "a+b.c-d://pi:...@h"),
        ("ssh://\u043f\u0438:\u0441geheim1@h", "ssh://\u043f\u0438:...@h"), ("ssh://pi\uff1ageheim1\uff20h", "ssh://pi:...@h"),
        ("ssh://pi:geheim1%40h", "ssh://pi:...@h"), ("ssh://pi:a\ngeheim1@h", "ssh://pi:...@h"),
        ("ssh://pi@[::1]:2301", "ssh://pi@[::1]:2301"), ("adb://adb-XX (2)._adb._tcp", "adb://adb-XX (2)._adb._tcp"),
        (" ssh://pi@h:22", " ssh://pi@h:22"), ("adb://a%3A5555", "adb://a%3A5555"),
        ("adb://127.0.0.1:5555", "adb://127.0.0.1:5555"), ("ssh://[fe80::1]:22", "ssh://[fe80::1]:22"), ("local", "local"),
    ],
)  # fmt: skip
def test_a_password_is_told_from_a_port(url: str, shown: str) -> None:
    assert redacted(url) == shown


WITH_ONE = [
    *("ssh://pi:geheim1@h", "adb://x:geheim1@h", "ssh://pi:geheim1@[bad", "pi:geheim1@h", "ssh://pi:pass geheim1@127.0.0.1"),
    *("pi:sec\tgeheim1@", "ssh://my user:geheim1@h", "ssh://pi%3Ageheim1@h", "ssh://pi://geheim1@h", "SSH://pi:geheim1@h"),
]


@pytest.mark.parametrize("url", WITH_ONE)
def test_no_command_takes_or_shows_one(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for command in (
        ["devices", "add", "x", url],
        ["devices", "clean", url],
        ["devices", "setup", url],
        ["devices", "add", url, "ssh://h"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code != 0 and SECRET not in done.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_one_in_a_file_is_refused_with_the_device_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text('[pi5]\nurl = "ssh://pi:geheim1@h"\n')
    with pytest.raises(UsageError, match="the URL of device pi5") as caught:
        devices_toml.known()
    assert SECRET not in caught.value.message()


def test_an_unknown_name_that_looks_like_one_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName) as caught:
        devices_toml.resolve("pi:geheim1@h")
    assert SECRET not in caught.value.message()


NAMES = st.text(st.characters(exclude_characters=":@%\uff1a\ufe55\ufe13\uff20\ufe6b", exclude_categories=["Cs"]), max_size=12)


@given(
    st.sampled_from(["ssh://", "adb://", "SSH://", "my+kind://", ""]),
    NAMES,
    st.sampled_from([":", "%3A", "%3a", "%253A"]),
    NAMES,
)
def test_whatever_it_is_made_of_it_is_refused(scheme: str, user: str, colon: str, rest: str) -> None:
    url = f"{scheme}{user}{colon}{rest}{SECRET}@host:22"
    assert SECRET not in redacted(url) and redacted(redacted(url)) == redacted(url)
    with pytest.raises(UsageError, match="password") as caught:
        refuse_password(url)
    assert SECRET not in caught.value.message()


@given(NAMES, st.sampled_from(["h", "10.0.0.1", "a-b.local", "[::1]", "[fe80::1%25eth0]"]), st.integers(1, 65535))
def test_a_url_without_one_stays_as_it_is(user: str, host: str, port: int) -> None:
    for url in (f"ssh://{user}@{host}:{port}", f"ssh://{host}:{port}", f"adb://{host}:{port}"):
        refuse_password(url)
        assert redacted(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "no ssh://pi:geheim1@h, sorry", "'ssh://pi:pass geheim1@h' is wrong", "two\nssh://my user:geheim1@h\nlines",
        "ssh://pi%3Ageheim1@h", "at ssh://pi://geheim1@h:", "ssh://a@h and ssh://b:geheim1@h",
        "https://u:geheim1@pypi/x failed",
        "ssh://a@b:geheim1@h",
    ],
)  # fmt: skip
def test_no_error_has_one_in_its_text(text: str) -> None:
    error = EdgeoptError(text, why=text, fix=text)
    assert SECRET not in str(error) + error.what + error.why + error.fix + error.message()


@pytest.mark.parametrize(
    "text",
    [
        "ssh://pi@h:22 refuses pi@h: no", "ssh://h:22 refuses pi@h: no", "known: ssh://a@h, ssh://b@h:22, adb://c:5555",
        "ssh://a@h: Permission denied for b@h", "see https://x.org and write to me@x.org",
        "write ssh://user@host:port; an IPv6 address: ssh://user@[fe80::1]:22", "a: b@c", "ssh://[::1]:22",
    ],
)  # fmt: skip
def test_a_text_without_one_stays_as_it_is(text: str) -> None:
    assert redacted_text(text) == text


@given(st.text(st.sampled_from("ssh://@: %3Aa1\n'")))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    assert redacted_text(redacted_text(text)) == redacted_text(text)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ssh://",
            "ssh://h:0",
            "ssh://h:99999",
            "ssh://h/path",
            "ssh://-l@h",
            "ssh://a;b",
            "ssh://[zz]",
            "adb://",
            "adb://a b",
        ),
        *("adb://h:0x", "adb://%ff", "adb://h:99999/x", "ssd://h", "h"),
    ],
)
def test_what_is_refused_when_it_is_used_is_refused_when_it_is_added(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UsageError) as used:
        registry.transport(url)
    done = CliRunner().invoke(app, ["devices", "add", "x", url])
    assert done.exit_code == used.value.exit_code and used.value.message() in done.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("url", ["adb://SERIAL", "adb://h:5555", "adb://adb-XX (2)._adb-tls-connect._tcp", "adb://a%3A1"])
def test_a_device_is_added_without_the_extra_that_reaches_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    registry.check_url(url)
    with pytest.raises(UsageError, match="no ADB device"):
        registry.check_url(f"{url}?")
