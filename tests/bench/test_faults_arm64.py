"""Out of space, and a reboot, on an emulated ARM64 board with a real disk and a boot of its own."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from edgeopt.bench.types import DeviceRun
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.own_folder import MARK
from tests.bench.fault_contract import SIZE, assert_lost
from tests.bench.faults import Bed, assert_clear, assert_measured, identity, samples
from tests.bench.faults_ssh import Way, bed, server
from tests.emulators.arm64 import Board, switched_on
from tests.emulators.sshd import Server

__all__ = ["bed", "server"]
pytestmark = [pytest.mark.slow, pytest.mark.device]

CANNED = """#!/bin/sh
echo '{"event":"first","ns":1000}'
echo '{"event":"samples","ns":[1000,1001,1002]}'
[ ! -e /tmp/hang ] || sleep 1000
echo '{"event":"end"}'
"""
"""Instead of Python, which takes its time under an emulator."""

Switch = Callable[..., tuple[Board, DeviceSpec]]


@pytest.fixture
def switch_on(server: Server, bed: Bed) -> Iterator[Switch]:
    """Gives a board that is on, and the device that it is."""
    with ExitStack() as stack:

        def start(home_bytes: int | None = None) -> tuple[Board, DeviceSpec]:
            board = stack.enter_context(switched_on(bed.folder / "board", home_bytes=home_bytes))
            known = bed.folder / "known"
            known.write_text(server.known_lines("known") + f"known {board.host_key}\n")
            lines = ("HostKeyAlias known", f"UserKnownHostsFile {known}", "IdentitiesOnly yes", "IdentityAgent none")
            keys = (f"IdentityFile {key}" for key in (board.folder / "client_key", server.key))
            Path(os.environ["EDGEOPT_SSH_CONFIG"]).write_text("\n".join(["Host *", *lines, *keys]) + "\n")
            script = board.files / "tmp" / "canned"
            script.write_text(CANNED)
            script.chmod(0o755)
            return board, DeviceSpec(name="board", url=board.url, python="/tmp/canned")

        yield start


def private(board: Board) -> Path:
    return board.files / board.home[1:] / ".cache" / "edgeopt-device"


def left(board: Board) -> list[str]:
    """What is in the board's private folder besides its own half and its store."""
    found = (path for path in private(board).glob("**/*") if not path.name.startswith(("device-", MARK)))
    return [str(path) for path in found if path.name != "sessions" and "store" not in path.parts]


def assert_three(run: DeviceRun) -> None:
    """The board has measured what CANNED says."""
    assert not run.error, run.reason
    assert [one.status for one in run.results] == ["ok"], run.results[0].reason
    assert samples(run) == 3


def test_no_room_is_known_before_anything_is_sent(bed: Bed, server: Server, switch_on: Switch) -> None:
    board, device = switch_on(home_bytes=3_000_000)
    artifact = identity(bed.folder / "large.onnx", padding=SIZE)
    full, fine = bed.bench(device, bed.device("healthy", server.url), artifact=artifact)
    assert_measured(fine)
    (result,) = full.results
    assert result.error == "DeviceFull"
    assert_clear(result.error, result.reason, "6 MB, and 1 MB to spare", "edgeopt devices clean board")
    assert not list((private(board) / "store").iterdir())
    assert not left(board)
    (run,) = bed.bench(device)
    assert_three(run)


def test_a_disk_that_gets_full_during_the_push_says_so(bed: Bed, server: Server, switch_on: Switch) -> None:
    board, device = switch_on(home_bytes=SIZE + 4_000_000)
    artifact = identity(bed.folder / "large.onnx", padding=SIZE)
    way = Way(board.url, bytes_per_s=2e6)
    filler = board.files / board.home[1:] / "filler"

    def fill() -> None:
        with suppress(OSError):
            filler.write_bytes(bytes(2 * SIZE))

    with bed.when(lambda: list(private(board).glob("store/*.part")), fill):
        on_slow = DeviceSpec(name="board", url=way.url, python=device.python)
        full, fine = bed.bench(on_slow, bed.device("healthy", server.url), artifact=artifact)
    way.proxy.close()
    assert_measured(fine)
    (result,) = full.results
    assert result.error == "DeviceFull", result.reason
    assert_clear(result.error, result.reason)
    assert not left(board)
    filler.unlink()
    (run,) = bed.bench(device, artifact=artifact)
    assert_three(run)


def test_a_reboot_in_the_middle_of_a_run_blocks_nobody(bed: Bed, server: Server, switch_on: Switch) -> None:
    board, device = switch_on()
    hang = board.files / "tmp" / "hang"
    hang.touch()
    with bed.when(bed.measuring("board"), board.stop):
        lost, fine = bed.bench(device, bed.device("healthy", server.url))
    board.start()  # not in the thread above: the board would end with it
    assert_measured(fine)
    assert_lost(lost)
    assert samples(lost) == 3
    assert (private(board) / "lock").is_symlink()
    (board.files / "tmp" / "hang").unlink()
    start = time.monotonic()
    (run,) = bed.bench(device)
    assert_three(run)
    assert time.monotonic() - start < bed.settings.wait_s / 2
    assert not left(board)
