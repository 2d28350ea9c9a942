"""The emulated daemon is a daemon to Debian's own client: otherwise tests against it would prove nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.adb.client import Client, private_server
from tests.emulators.adbd import Adbd
from tests.emulators.adbd_link import CHECKS_SUMS


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with private_server(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(params=["new", "old"])
def adbd(request: pytest.FixtureRequest, adb: Client) -> Iterator[Adbd]:
    old = request.param == "old"
    with Adbd(version=CHECKS_SUMS, maxdata=4096, features=()) if old else Adbd() as emulated:
        adb.attach(emulated.address)
        yield emulated
        adb("disconnect", emulated.address)


def test_it_connects_and_names_itself(adb: Client, adbd: Adbd) -> None:
    assert f"{adbd.address} device product:emulated model:Emulated device:emulated" in " ".join(
        adb("devices", "-l").stdout.decode().split()
    )


def test_commands_have_output_and_exit_codes_where_the_protocol_has_them(adb: Client, adbd: Adbd) -> None:
    ran = adb("-s", adbd.address, "shell", "echo out; echo err >&2; exit 7")
    if adbd.features:
        assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"out\n", b"err\n")
    else:
        assert (ran.returncode, ran.stdout) == (0, b"out\nerr\n")


def test_commands_have_input(adb: Client, adbd: Adbd) -> None:
    for _ in range(5):
        assert adb("-s", adbd.address, "exec-in", "cat > /dev/null", given=b"lost").returncode == 0
        if adbd.features:
            assert adb("-s", adbd.address, "shell", "cat", given=b"hello\n").stdout == b"hello\n"


def test_a_few_megabytes_go_there_and_back(adb: Client, adbd: Adbd, tmp_path: Path) -> None:
    content = os.urandom(4_000_001)
    (tmp_path / "file").write_bytes(content)
    pushed = adb("-s", adbd.address, "push", tmp_path / "file", tmp_path / "there")
    assert pushed.returncode == 0, pushed
    assert (tmp_path / "there").read_bytes() == content
    assert adb("-s", adbd.address, "pull", tmp_path / "there", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_bytes() == content


def test_folders_are_listed(adb: Client, adbd: Adbd, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"123")
    assert adb("-s", adbd.address, "ls", tmp_path).stdout.split()[1] == b"00000003"


def test_a_full_disk_and_a_missing_file_are_told(adb: Client, adbd: Adbd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    adbd.faults.full_after = 1_000_000
    pushed = adb("-s", adbd.address, "push", tmp_path / "file", tmp_path / "there")
    assert pushed.returncode != 0
    assert b"No space left on device" in pushed.stdout + pushed.stderr
    assert not (tmp_path / "there").exists()
    assert adb("-s", adbd.address, "pull", tmp_path / "none", tmp_path / "back").returncode != 0


def test_only_accepted_keys_get_in(adb: Client) -> None:
    with Adbd(keys=[]) as stranger:
        adb.attach(stranger.address)
        assert b"unauthorized" in adb("-s", stranger.address, "get-state").stderr
        adb("disconnect", stranger.address)
    key = (adb.home / ".android" / "adbkey.pub").read_bytes()
    with Adbd(keys=[key]) as friend:
        adb.attach(friend.address)
        assert adb("-s", friend.address, "shell", "echo in").stdout == b"in\n"
        adb("disconnect", friend.address)
