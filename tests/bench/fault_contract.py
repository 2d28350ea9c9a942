"""Faults of a device's link and of the runs on it: the same for every kind of device. Its test modules give the fixtures.

bed             devices, artifacts and benchmarks
lossy           the way to the faulty device
healthy_url     that to the other one, which is always there beside it
"""

import re
import time

import pytest

from edgeopt.bench.types import DeviceRun
from tests.bench.faults import SILENCE_S, Bed, Lossy, assert_clear, assert_measured, identity, samples, until

SIZE = 6_000_000
VALUES = 500_000
SAID = ("\\033]0;owned\\007/tmp", "/tmp\\n/etc", "")
"""What ``pwd`` says on a device that lies."""


def assert_lost(run: DeviceRun) -> None:
    """The link went, and the result says so, also that the device clears itself."""
    assert run.error == "LinkLost"
    assert_clear(run.error, run.reason)
    assert [one.status for one in run.results] == ["failed"]
    assert [one.error for one in run.results] == ["LinkLost"]
    assert any("clears itself" in warning for warning in run.warnings), run.warnings


class LinkFaults:
    """What happens to the link."""

    @pytest.mark.slow
    def test_a_link_cut_in_the_middle_of_a_push(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url), bed.device("healthy", healthy_url)
        artifact = identity(bed.folder / "large.onnx", padding=SIZE)
        lossy.cut_after(SIZE // 2)
        lost, fine = bed.bench(faulty, healthy, artifact=artifact)
        assert_measured(fine)
        assert_lost(lost)
        assert samples(lost) == 0
        lossy.mend()
        before = lossy.carried
        bed.healed(bed.device("faulty", lossy.url), artifact=artifact)
        again = lossy.carried - before
        assert again < SIZE if lossy.resumes else again > SIZE

    @pytest.mark.slow
    def test_a_link_cut_in_the_middle_of_a_run(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url, after="hang"), bed.device("healthy", healthy_url)
        with bed.when(bed.measuring("faulty"), lossy.cut):
            lost, fine = bed.bench(faulty, healthy)
        assert_measured(fine)
        bed.assert_cleared("healthy")
        assert_lost(lost)
        assert samples(lost) > 0
        assert lost.results[0].measurement is not None
        assert "partial" in lost.results[0].measurement.marks
        bed.healed(bed.device("faulty", lossy.url))

    @pytest.mark.slow
    def test_a_link_cut_in_the_middle_of_a_pull(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url), bed.device("healthy", healthy_url)
        artifact = identity(bed.folder / "wide.onnx", values=VALUES)
        written = lambda: '"event":"outputs"' in bed.printed("faulty")  # noqa: E731
        with bed.when(written, lambda: lossy.cut_after(VALUES)):
            lost, fine = bed.bench(faulty, healthy, artifact=artifact)
        assert_measured(fine)
        assert_lost(lost)
        assert samples(lost) >= bed.settings.min_runs
        lossy.mend()
        bed.healed(bed.device("faulty", lossy.url), artifact=artifact)

    @pytest.mark.slow
    def test_a_dead_link_is_noticed_within_half_a_minute(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url, after="hang"), bed.device("healthy", healthy_url)
        silent: list[float] = []

        def silence() -> None:
            lossy.silence()
            silent.append(time.monotonic())

        with bed.when(bed.measuring("faulty"), silence):
            lost, fine = bed.bench(faulty, healthy)
        assert time.monotonic() - silent[0] < 30
        assert_measured(fine)
        assert_lost(lost)
        assert samples(lost) > 0
        until(lambda: not bed.left("faulty"), 2 * SILENCE_S + 2)
        lossy.mend()
        bed.healed(bed.device("faulty", lossy.url))

    @pytest.mark.slow
    def test_a_slow_link_is_right_all_the_same(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url), bed.device("healthy", healthy_url)
        artifact = identity(bed.folder / "wide.onnx", values=VALUES // 10, padding=SIZE // 5)
        lossy.slow(400_000)
        slow, fine = bed.bench(faulty, healthy, artifact=artifact)
        for run in (slow, fine):
            assert_measured(run)
            measurement = run.results[0].measurement
            assert measurement is not None
            assert measurement.agreement is not None
            assert measurement.agreement.bit_exact
        bed.assert_cleared("faulty", "healthy")


class RunFaults:
    """What happens to a run."""

    @pytest.mark.slow
    def test_a_run_that_never_ends_fails_alone(self, bed: Bed, lossy: Lossy, healthy_url: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url, after="hang2"), bed.device("healthy", healthy_url)
        endless, fine = bed.bench(faulty, healthy, threads=(2, 1), timeout_s=15.0)
        assert [one.status for one in fine.results] == ["ok", "ok"]
        assert not endless.error
        two, one = endless.results
        assert (two.error, one.status) == ("DeviceTimeout", "ok")
        assert_clear(two.error, two.reason, "15 s")
        assert two.measurement is not None
        assert two.measurement.launches[0].samples_ns
        bed.assert_cleared("faulty", "healthy")
        assert endless.warnings == ()

    @pytest.mark.slow
    @pytest.mark.parametrize(("after", "words"), [("kill", "SIGKILL"), ("memory", "no room for 10 GB")])
    def test_a_run_killed_for_memory_says_so(self, bed: Bed, lossy: Lossy, healthy_url: str, after: str, words: str) -> None:
        faulty, healthy = bed.device("faulty", lossy.url, after=after), bed.device("healthy", healthy_url)
        killed, fine = bed.bench(faulty, healthy)
        assert_measured(fine)
        (result,) = killed.results
        assert (killed.error, result.error) == ("", "RunFailed")
        assert_clear(result.error, result.reason, "memory", words)
        assert samples(killed) > 0
        bed.assert_cleared("faulty", "healthy")
        bed.healed(bed.device("faulty", lossy.url))


class Lies:
    """Programs on the device that answer what they should not, from the folder ``lies``, which is first in its PATH."""

    def test_a_checksum_that_lies(self, bed: Bed, liar_url: str, healthy_url: str) -> None:
        bed.program("sha256sum", f"echo {'0' * 64}", "lies")
        lying, fine = bed.bench(bed.device("liar", liar_url), bed.device("healthy", healthy_url))
        assert_measured(fine)
        (result,) = lying.results
        assert result.error == "BadAnswer"
        assert_clear(result.error, result.reason, "damaged")
        bed.assert_cleared("liar")

    @pytest.mark.parametrize("said", ["garbage", *(pytest.param(said, marks=pytest.mark.slow) for said in SAID)])
    def test_a_folder_that_is_none(self, bed: Bed, liar_url: str, healthy_url: str, said: str) -> None:
        bed.program("sh", f"""case "$*" in *pwd*) printf %b '{said}';; *) exec /bin/sh "$@";; esac""", "lies")
        lying, fine = bed.bench(bed.device("liar", liar_url), bed.device("healthy", healthy_url))
        assert_measured(fine)
        assert lying.error == "BadAnswer"
        assert_clear(lying.error, lying.reason)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", lying.reason)
