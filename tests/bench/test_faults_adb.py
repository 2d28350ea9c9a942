"""What goes wrong on an Android device ends in a clear result for that device, and harms no other."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.adb import direct
from edgeopt.devices.session import device as device_module
from tests.bench.fault_contract import SIZE, Lies, LinkFaults, RunFaults, assert_lost
from tests.bench.faults import SILENCE_S, Bed, assert_clear, assert_measured, identity, samples
from tests.devices.adb.fixtures import home
from tests.emulators.adbd import Adbd

__all__ = ["home"]


class Way:
    """To an emulated device. See :class:`tests.bench.faults.Lossy`."""

    resumes = False

    def __init__(self, adbd: Adbd) -> None:
        self.adbd = adbd
        self.url = url(adbd)

    @property
    def carried(self) -> int:
        return self.adbd.received + self.adbd.sent

    def cut(self) -> None:
        self.adbd.cut()

    def cut_after(self, count: int) -> None:
        self.adbd.faults.cut_after_received = self.adbd.received + count
        self.adbd.faults.cut_after_sent = self.adbd.sent + count

    def silence(self) -> None:
        self.adbd.faults.silent.set()

    def mend(self) -> None:
        self.adbd.faults.silent.clear()
        self.adbd.faults.cut_after_received = self.adbd.faults.cut_after_sent = None

    def slow(self, bytes_per_s: float) -> None:
        self.adbd.faults.bytes_per_second = bytes_per_s


class Liar(Adbd):
    """A device whose commands look for programs in ``lies`` first."""

    def __init__(self, lies: Path) -> None:
        self._lies = lies
        super().__init__()

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return found | {"PATH": f"{self._lies}:{found['PATH']}"}


def url(adbd: Adbd) -> str:
    return f"adb://{adbd.address}"


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setattr(device_module, "SILENCE_S", SILENCE_S)
    return Bed(tmp_path)


@pytest.fixture
def adbd() -> Iterator[Adbd]:
    with Adbd() as found:
        yield found


@pytest.fixture
def lossy(adbd: Adbd) -> Way:
    return Way(adbd)


@pytest.fixture
def healthy_url() -> Iterator[str]:
    with Adbd() as found:
        yield url(found)


@pytest.fixture
def liar_url(bed: Bed) -> Iterator[str]:
    with Liar(bed.folder / "lies") as found:
        yield url(found)


class TestLink(LinkFaults):
    """Over ADB."""


class TestRun(RunFaults):
    """Over ADB."""


class TestLies(Lies):
    """Over ADB."""


def test_no_room_for_an_artifact_is_known_before_it_is_sent(bed: Bed, liar_url: str, healthy_url: str) -> None:
    bed.program("df", "echo disk blocks used free; echo /dev/block/dm-8 100 99 1 99% /data", "lies")
    full, fine = bed.bench(bed.device("full", liar_url), bed.device("healthy", healthy_url))
    assert_measured(fine)
    (result,) = full.results
    assert result.error == "DeviceFull"
    assert_clear(result.error, result.reason, "MB are free", "edgeopt devices clean full")
    assert not list((bed.root("full") / "store").iterdir())
    bed.assert_cleared("full")


@pytest.mark.slow
def test_a_device_that_gets_full_during_the_push_says_so(bed: Bed, adbd: Adbd, healthy_url: str) -> None:
    artifact = identity(bed.folder / "large.onnx", padding=SIZE)
    adbd.faults.full_after = SIZE // 2
    faulty = bed.device("full", url(adbd))
    full, fine = bed.bench(faulty, bed.device("healthy", healthy_url), artifact=artifact)
    assert_measured(fine)
    (result,) = full.results
    assert result.error == "DeviceFull"
    assert_clear(result.error, result.reason, "No space left on device")
    bed.assert_cleared("full")
    adbd.faults.full_after = None
    bed.healed(faulty, artifact=artifact)


@pytest.mark.slow
def test_a_reboot_in_the_middle_of_a_run_blocks_nobody(bed: Bed, adbd: Adbd, healthy_url: str) -> None:
    faulty, healthy = bed.device("faulty", url(adbd), after="hang"), bed.device("healthy", healthy_url)
    with bed.when(bed.measuring("faulty"), adbd.reboot):
        lost, fine = bed.bench(faulty, healthy)
    assert_measured(fine)
    assert_lost(lost)
    assert samples(lost) > 0
    assert (bed.root("faulty") / "lock").is_symlink()  # nobody was there to remove it
    start = time.monotonic()
    bed.healed(bed.device("faulty", url(adbd)))
    assert time.monotonic() - start < bed.settings.wait_s / 2
    bed.assert_cleared("faulty")


def test_a_key_that_was_never_allowed_is_told(bed: Bed, healthy_url: str, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(direct, "ALLOW_S", 0.3)
    with Adbd(keys=[]) as strict:
        refused, fine = bed.bench(bed.device("stranger", url(strict)), bed.device("healthy", healthy_url))
    assert_measured(fine)
    assert refused.error == "NotAuthorized"
    assert_clear(refused.error, refused.reason, "Always allow")
    assert not bed.root("stranger").exists()
