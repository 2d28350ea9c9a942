"""The keys by which Android devices know this computer."""

import os
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from adb_shell.auth.keygen import keygen

from edgeopt.devices.adb import direct as adb_direct
from edgeopt.devices.adb import keys
from edgeopt.devices.adb.transport import connect
from edgeopt.errors import NotAuthorized
from tests.devices.adb.fixtures import *  # noqa: F403  the fixtures
from tests.devices.adb.fixtures import nobody, until
from tests.emulators.adbd import Adbd
from tests.emulators.adbd_link import public_key


def lets_in(adbd: Adbd) -> bool:
    with closing(connect(f"adb://{adbd.address}", nobody)) as found:
        return found.run(["true"], timeout_s=5).exit_code == 0


def test_a_key_is_made_once_for_its_owner_only_and_signs(home: Path) -> None:
    [key] = keys.own_keys()
    assert key.path == home / "config" / "edgeopt" / "adbkey"
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    assert [one.public() for one in keys.own_keys()] == [key.public()]
    assert os.listdir(key.path.parent) == ["adbkey"]
    with Adbd(keys=[key.public()]) as friend:
        assert lets_in(friend)
        assert not friend.offered


def test_a_relative_configuration_folder_holds_no_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    [key] = keys.own_keys()
    assert key.path == home / ".config" / "edgeopt" / "adbkey"
    assert not (home / "relative").exists()


def test_runs_that_begin_at_once_make_one_key(home: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(keys.own_keys()[0].public())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4


def test_the_public_half_is_what_adb_makes_of_it(home: Path) -> None:
    path = home / "made"
    keygen(str(path))
    ours = keys._read(path)
    assert ours.public().split()[0] == Path(f"{path}.pub").read_bytes().split()[0]
    assert public_key(ours.public()) == ours.private.public_key().public_numbers()


def test_adb_s_own_key_is_used_where_there_is_one(home: Path) -> None:
    (home / ".android").mkdir()
    keygen(str(home / ".android" / "adbkey"))
    with Adbd(keys=[(home / ".android" / "adbkey.pub").read_bytes()]) as phone:
        assert lets_in(phone)
    assert not (home / "config").exists()


def test_a_device_that_knows_the_second_key_only_lets_in(home: Path) -> None:
    (ours,) = keys.own_keys()
    (home / ".android").mkdir()
    keygen(str(home / ".android" / "adbkey"))
    with Adbd(keys=[ours.public()]) as phone:
        assert lets_in(phone)


def test_a_user_who_allows_while_we_wait_lets_in() -> None:
    with Adbd(keys=[]) as phone:

        def tap() -> None:
            until(lambda: bool(phone.offered))
            phone.accept_offered()

        threading.Thread(target=tap).start()
        assert lets_in(phone)
        assert lets_in(phone)
        assert len(phone.offered) == 1


def test_a_device_that_nobody_allowed_is_told_with_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_direct, "ALLOW_S", 0.3)
    with Adbd(keys=[]) as phone, pytest.raises(NotAuthorized, match="Always allow") as caught:
        lets_in(phone)
    [key] = keys.own_keys()
    assert key.fingerprint() in caught.value.why
    assert len(key.fingerprint()) == 16 * 3 - 1


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_key_that_cannot_be_read_is_told_with_its_path(home: Path, content: bytes) -> None:
    (home / ".android").mkdir()
    (home / ".android" / "adbkey").write_bytes(content)
    with Adbd(keys=[]) as phone, pytest.raises(NotAuthorized, match=r"(?s)\.android/adbkey.*move"):
        lets_in(phone)


def test_a_folder_that_cannot_hold_a_key_is_told(home: Path) -> None:
    (home / "config").write_text("a file")
    with Adbd(keys=[]) as phone, pytest.raises(NotAuthorized, match="XDG_CONFIG_HOME"):
        lets_in(phone)
