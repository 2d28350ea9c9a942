"""Android devices do what every device does: directly, behind an ADB server, and with a daemon of Android 5."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeopt.devices.adb import server as adb_server
from edgeopt.devices.adb.transport import connect
from edgeopt.devices.transport import Transport
from edgeopt.errors import BadAnswer, DeviceError, NotAuthorized, Unreachable, UsageError
from tests.devices.adb.client import Client
from tests.devices.adb.fixtures import *  # noqa: F403  the fixtures
from tests.devices.adb.fixtures import nobody, until
from tests.devices.contract import QUICK_S, FileContract, RunContract, TransportContract
from tests.emulators.adbd import Adbd
from tests.emulators.adbd_link import CHECKS_SUMS


class TestDirect(TransportContract):
    @pytest.fixture
    def transport(self, direct: Transport) -> Transport:
        return direct


class TestServed(TransportContract):
    @pytest.fixture
    def transport(self, served: Transport) -> Transport:
        return served


class TestOldDaemon(RunContract, FileContract):
    """No shell_v2, checksums, packets of 4 KiB."""

    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with (
            Adbd(version=CHECKS_SUMS, maxdata=4096, features=()) as old,
            closing(connect(f"adb://{old.address}", nobody)) as found,
        ):
            yield found

    def test_standard_error_is_apart(self, transport: Transport) -> None:
        # It cannot be: the old protocol has one stream.
        finished = transport.run(["sh", "-c", "echo out; echo err >&2"], timeout_s=QUICK_S)
        assert (finished.stdout, finished.stderr) == (b"out\nerr\n", b"")

    def test_five_megabytes_on_both_streams_do_not_block_each_other(self, transport: Transport) -> None:
        script = "head -c 5000000 /dev/zero >&2; head -c 5000000 /dev/zero; head -c 1000 /dev/zero >&2"
        assert len(transport.run(["sh", "-c", script], timeout_s=60).stdout) == 10_001_000

    @pytest.mark.parametrize("printed", ["", "no line end", "line\n", "\n", "0", "a\r\n"])
    def test_the_exit_code_is_no_part_of_the_output(self, transport: Transport, printed: str) -> None:
        finished = transport.run(["printf", "%s", printed], timeout_s=QUICK_S)
        assert (finished.exit_code, finished.stdout) == (0, printed.encode())


def test_words_are_a_program_never_the_shell_s_own(direct: Transport) -> None:
    for word in ("if", "A=b", "exit", "set"):
        assert direct.run([word, "0"], timeout_s=QUICK_S).exit_code == 127


def test_a_sent_file_is_for_its_owner_only(direct: Transport, folder: str) -> None:
    with Path("/dev/null").open("rb") as empty:
        direct.send(empty, f"{folder}/file")
    assert stat.S_IMODE(Path(folder, "file").stat().st_mode) == 0o600


def test_a_command_too_long_for_the_daemon_is_refused(reached: Transport) -> None:
    with pytest.raises(DeviceError, match="bytes long"):
        reached.run(["echo", "x" * 2_000_000], timeout_s=QUICK_S)
    assert reached.run(["echo", "here"], timeout_s=QUICK_S).stdout == b"here\n"


def test_a_path_too_long_for_the_daemon_is_refused(reached: Transport, folder: str) -> None:
    with Path("/dev/null").open("rb") as empty, pytest.raises(DeviceError, match="no path"):
        reached.send(empty, f"{folder}/{'x' * 2000}")


def test_no_thread_and_no_file_descriptor_stays(adbd: Adbd) -> None:
    def threads() -> int:
        return sum(thread.name == "edgeopt-adb" for thread in threading.enumerate())

    before = None
    for _ in range(4):
        with closing(connect(f"adb://{adbd.address}", nobody)) as found:
            found.run(["true"], timeout_s=QUICK_S)
            assert threads() == 1
        assert threads() == 0
        until(lambda: not adbd.connections())
        before = before or len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "url",
    [
        "adb://",
        "adb:///",
        "ssh://x:1",
        "adb://user@host:1",
        "adb://h:0",
        "adb://h:70000",
        "adb://a b",
        "adb://h:1/p",
        "adb://host:transport:x;reboot",
        "adb://x\x1b[31mred",
        "adb://x%1b[31mred",
        "adb://x%0ay",
        "adb://x%",
        "adb://x%ff",
        "adb://%20",
        "adb://adb-XX (2",
        "adb://$x",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="adb://HOST:PORT"):
        connect(url, nobody)


def test_a_serial_leads_to_the_server_which_is_never_started() -> None:
    with pytest.raises(Unreachable, match="adb start-server"):
        connect("adb://R58M123ABC", nobody)


def test_an_unknown_serial_is_told_with_those_known(client: Client, adbd: Adbd) -> None:
    client.attach(adbd.address)
    with pytest.raises(Unreachable, match=r"did you mean '127\.0\.0\.1"):
        adb_server.ServerConnection(adbd.address + "1", "adb://x")
    with pytest.raises(Unreachable, match="adb devices -l"):
        connect("adb://R58M123ABC", nobody)
    client("disconnect", adbd.address)


def test_the_server_lists_what_it_knows(client: Client, adbd: Adbd) -> None:
    client.attach(adbd.address)
    (found,) = [device for device in adb_server.listed() if device.serial == adbd.address]
    assert (found.state, found.properties["model"]) == ("device", "Emulated")
    client("disconnect", adbd.address)


@pytest.mark.parametrize(
    ("state", "hint"), [("recovery", "reboot"), ("sideload", "update|cancel"), ("bootloader", "fastboot"), ("weird", "restart")]
)
def test_a_device_that_is_not_in_its_normal_state_is_told(state: str, hint: str) -> None:
    with Adbd(state=state) as other, pytest.raises(Unreachable, match=f"(?s){state}.*next step: .*({hint})"):
        connect(f"adb://{other.address}", nobody)


def test_states_behind_the_server_are_told(client: Client) -> None:
    with Adbd(state="recovery") as recovery:
        client.attach(recovery.address)
        with pytest.raises(Unreachable, match="recovery"):
            adb_server.ServerConnection(recovery.address, "adb://x")
        client("disconnect", recovery.address)
    with Adbd(keys=[]) as stranger:
        client.attach(stranger.address)
        with pytest.raises(NotAuthorized, match=r"(?s)unauthorized.*Always allow"):
            adb_server.ServerConnection(stranger.address, "adb://x")
        client("disconnect", stranger.address)


def test_wireless_debugging_needs_a_server_that_is_paired() -> None:
    with Adbd(tls=True) as wireless, pytest.raises(DeviceError, match=r"(?s)TLS.*adb pair"):
        connect(f"adb://{wireless.address}", nobody)


def test_wireless_debugging_goes_through_a_server_that_has_the_device(client: Client, adbd: Adbd) -> None:
    client.attach(adbd.address)
    adbd.tls = True  # for every further connection
    with closing(connect(f"adb://{adbd.address}", nobody)) as found:
        assert found.run(["echo", "paired"], timeout_s=QUICK_S).stdout == b"paired\n"
    client("disconnect", adbd.address)


def test_nobody_listening_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="refused"):
        connect("adb://127.0.0.1:1", nobody)


def test_something_that_is_no_daemon_is_told(adbd: Adbd) -> None:
    adbd.faults.garbage = True
    with pytest.raises(BadAnswer):
        connect(f"adb://{adbd.address}", nobody)


def test_something_that_says_nothing_is_told(adbd: Adbd, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeopt.devices.adb import direct as adb_direct

    monkeypatch.setattr(adb_direct, "CONNECT_S", 0.5)
    adbd.faults.silent.set()
    with pytest.raises(Unreachable, match="said nothing"):
        connect(f"adb://{adbd.address}", nobody)
