"""What goes wrong with Android devices, directly and behind an ADB server: each ends in a clear error, and soon."""

import io
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgeopt.devices.adb.transport import connect
from edgeopt.devices.transport import Transport
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, LinkLost, Unreachable
from tests.devices.adb.fixtures import *  # noqa: F403  the fixtures
from tests.devices.adb.fixtures import nobody, until
from tests.emulators.adbd import Adbd

SIZE = 6_000_000


class Noted(io.BytesIO):
    """A source that says when its first bytes have been taken."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.begun = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.begun.set()
        return super().read(size)


def send(transport: Transport, folder: str) -> None:
    transport.send(io.BytesIO(bytes(SIZE)), f"{folder}/file")


def test_a_link_cut_in_the_middle_of_a_push_leaves_no_file(reached: Transport, adbd: Adbd, folder: str) -> None:
    adbd.faults.cut_after_received = adbd.received + SIZE // 2
    with pytest.raises(LinkLost) as caught:
        send(reached, folder)
    assert caught.value.why and caught.value.fix
    until(lambda: not Path(folder, "file").exists())


def test_a_link_cut_in_the_middle_of_a_fetch_is_lost(reached: Transport, adbd: Adbd, folder: str) -> None:
    Path(folder, "file").write_bytes(bytes(SIZE))
    adbd.faults.cut_after_sent = adbd.sent + SIZE // 2
    sink = io.BytesIO()
    with pytest.raises(LinkLost):
        reached.fetch(f"{folder}/file", sink, limit=SIZE)
    assert 0 < len(sink.getvalue()) < SIZE


def test_a_link_cut_in_the_middle_of_a_run_is_lost_and_keeps_what_came(reached: Transport, adbd: Adbd) -> None:
    came: list[bytes] = []

    def cut_it(piece: bytes) -> None:
        came.append(piece)
        threading.Thread(target=adbd.cut).start()

    with pytest.raises(LinkLost):
        reached.run(["sh", "-c", "echo measured; sleep 20"], timeout_s=20, on_output=cut_it)
    assert came == [b"measured\n"]


def test_a_reboot_ends_a_run_and_the_device_can_be_reached_again(adbd: Adbd, direct: Transport) -> None:
    threading.Timer(0.3, adbd.reboot).start()
    with pytest.raises(LinkLost):
        direct.run(["sleep", "20"], timeout_s=20)
    until(lambda: not adbd.processes())
    time.sleep(0.3)
    with closing(connect(direct.url, nobody)) as again:
        assert again.run(["echo", "back"], timeout_s=5).stdout == b"back\n"


def test_a_device_that_goes_silent_is_lost_during_a_run(impatient: float, reached: Transport, adbd: Adbd) -> None:
    threading.Timer(0.3, adbd.faults.silent.set).start()
    start = time.monotonic()
    with pytest.raises(LinkLost):
        reached.run(["sleep", "20"], timeout_s=60)
    assert time.monotonic() - start < 3 * impatient


@pytest.mark.slow
def test_a_device_that_goes_silent_is_lost_during_a_push(impatient: float, reached: Transport, adbd: Adbd, folder: str) -> None:
    source = Noted(bytes(50_000_000))
    threading.Thread(target=lambda: source.begun.wait(10) and adbd.faults.silent.set()).start()
    with pytest.raises(LinkLost):
        reached.send(source, f"{folder}/file")


@pytest.mark.slow
def test_a_quiet_command_is_no_dead_link(impatient: float, reached: Transport, adbd: Adbd) -> None:
    assert reached.run(["sleep", str(impatient + 1)], timeout_s=10).exit_code == 0
    probes = [name for name in adbd.services if name.startswith("edgeopt-probe")]
    assert 1 <= len(probes) <= 10  # asking now and then disturbs no measurement


@pytest.mark.slow
def test_a_connection_that_was_not_used_for_long_is_no_dead_link(impatient: float, direct: Transport) -> None:
    time.sleep(impatient + 0.5)
    assert direct.run(["echo", "here"], timeout_s=5).stdout == b"here\n"


@pytest.mark.slow
def test_a_slow_device_is_no_dead_link(impatient: float, direct: Transport, adbd: Adbd, folder: str) -> None:
    adbd.faults.bytes_per_second = 300_000
    direct.send(io.BytesIO(bytes(700_000)), f"{folder}/file")
    assert Path(folder, "file").stat().st_size == 700_000


def test_a_device_without_room_is_full_leaves_no_file_and_stays_usable(reached: Transport, adbd: Adbd, folder: str) -> None:
    adbd.faults.full_after = SIZE // 3
    with pytest.raises(DeviceFull, match="No space left on device"):
        send(reached, folder)
    until(lambda: not Path(folder, "file").exists())  # a daemon removes it after it has said so
    adbd.faults.full_after = None
    send(reached, folder)
    assert Path(folder, "file").stat().st_size == SIZE


def test_nothing_more_is_sent_to_a_device_that_is_full(direct: Transport, adbd: Adbd, folder: str) -> None:
    adbd.faults.full_after = 0
    with pytest.raises(DeviceFull):
        direct.send(io.BytesIO(bytes(50_000_000)), f"{folder}/file")
    assert adbd.received < 10_000_000


def test_garbage_in_the_middle_is_told(direct: Transport, adbd: Adbd) -> None:
    adbd.faults.garbage = True
    with pytest.raises(BadAnswer):
        direct.run(["echo", "x"], timeout_s=5)


def test_a_device_that_floods_is_cut_off(direct: Transport, adbd: Adbd) -> None:
    adbd.faults.rude = True
    stuck = threading.Event()
    with pytest.raises(BadAnswer):
        direct.run(
            ["head", "-c", "300000000", "/dev/zero"], timeout_s=20, limit=10**9, on_output=lambda _: stuck.wait(0.5) and None
        )


def test_a_hundred_megabytes_of_output_are_refused(reached: Transport) -> None:
    with pytest.raises(BadAnswer):
        reached.run(["head", "-c", "100000000", "/dev/zero"], timeout_s=20)
    assert reached.run(["echo", "here"], timeout_s=5).stdout == b"here\n"


def test_output_is_given_as_it_is_whatever_it_holds(reached: Transport) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J NaN ../../etc \x00\xff"
    finished = reached.run(["printf", nasty.replace("\x00", "\\000").replace("\xff", "\\377")], timeout_s=5)
    assert finished.stdout == nasty.encode("latin-1")


def test_a_command_that_is_killed_for_memory_ends_with_137(reached: Transport) -> None:
    assert reached.run(["sh", "-c", "kill -KILL $$"], timeout_s=5).exit_code == 137


def test_other_connections_do_not_notice(adbd: Adbd, direct: Transport, folder: str) -> None:
    with Adbd() as other, closing(connect(f"adb://{other.address}", nobody)) as neighbour:
        threading.Timer(0.2, other.cut).start()
        with pytest.raises((LinkLost, Unreachable)):
            neighbour.run(["sleep", "20"], timeout_s=20)
        assert direct.run(["echo", "here"], timeout_s=5).stdout == b"here\n"


def test_a_lost_link_stays_lost(direct: Transport, adbd: Adbd, folder: str) -> None:
    adbd.cut()
    for _ in range(2):
        with pytest.raises(LinkLost):
            direct.run(["true"], timeout_s=5)
        with pytest.raises(DeviceError):
            send(direct, folder)
