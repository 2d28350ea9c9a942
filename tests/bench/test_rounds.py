"""Launches round by round: order, throttling, failures, interruption. The place only pretends."""

import threading
from collections.abc import Callable

import pytest

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inputs import Array
from edgeopt.bench.place import LaunchOutcome, Place
from edgeopt.bench.rounds import Configuration, Rounds
from edgeopt.bench.types import BenchSettings, Launch
from edgeopt.devices.state.environment import Environment
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout, EdgeoptError, InputError, LinkLost, RunFailed
from tests.bench.parts import QUICK, Pretend, runnable

FINE = Launch(samples_ns=(1_000_000,) * 50)


def timed(workload_ns: int | None) -> Launch:
    return Launch(samples_ns=(1_000_000,) * 50, environment=({"workload_ns": workload_ns},))


def going(
    place: Place, *names: str, threads: tuple[int, ...] = (1,), stop: threading.Event | None = None
) -> list[Configuration]:
    configurations = [Configuration(runnable(name), count) for name in names or ("a",) for count in threads]
    Rounds(place, configurations, lambda name, how: None, stop or threading.Event(), pauses_s=(0.0, 0.0)).go()
    return configurations


def test_every_configuration_has_its_turn_in_every_round() -> None:
    place = Pretend()
    found = going(place, "a", "b", threads=(1, 4))
    assert place.measured == ["a/onnx x1", "a/onnx x4", "b/onnx x1", "b/onnx x4"] * 2
    assert [one.whole for one in found] == [2, 2, 2, 2]
    assert all(one.failure is None and len(one.outputs) == 1 for one in found)


def test_a_throttled_launch_is_repeated_and_discarded() -> None:
    heat = iter([100, 100, 150, 101])
    place = Pretend(lambda number, artifact: timed(next(heat)), settings=BenchSettings(launches=3))
    (found,) = going(place)
    assert (len(place.measured), found.whole, found.discarded, found.throttled) == (4, 3, 1, "")
    assert [launch.environment[0]["workload_ns"] for launch in found.launches] == [100, 100, 101]


def test_each_launch_each_pause_and_each_repetition_is_told() -> None:
    heat, told = iter([100, 150, 101]), list[str]()
    place = Pretend(lambda number, artifact: timed(next(heat)))
    rounds = Rounds(place, [Configuration(runnable("a"), 1)], lambda name, how: told.append(how), threading.Event(), (0.0, 0.0))
    rounds.go()
    assert [how.partition(", about")[0] for how in told] == [
        "launch 1 of 2", "launch 2 of 2",
        "throttled (a fixed piece of work takes 1.50 times as long as at the start): waiting 0 s", "launch 2 of 2, again",
    ]  # fmt: skip


def test_what_stays_throttled_is_kept_and_says_so() -> None:
    place = Pretend(lambda number, artifact: timed(100 if number == 0 else 200))
    (found,) = going(place)
    assert (len(place.measured), found.whole, found.discarded) == (4, 2, 2)
    assert found.throttled == "a fixed piece of work takes 2.00 times as long as at the start"


def test_androids_thermal_status_is_throttling() -> None:
    hot, cool = Environment(thermal_status=2), Environment(thermal_status=0)
    place = Pretend(environments=[cool, hot, cool, cool], settings=BenchSettings(launches=1))
    (found,) = going(place)
    assert (len(place.measured), found.discarded, found.throttled) == (2, 1, "")


@pytest.mark.parametrize("workload", [None, 0, -5, "fast"])
def test_a_workload_that_makes_no_sense_is_no_throttling(workload: int | None) -> None:
    (found,) = going(Pretend(lambda number, artifact: timed(workload)))
    assert (found.whole, found.discarded) == (2, 0)


@pytest.mark.parametrize(
    "error", [RunFailed("crash"), DeviceTimeout("slow"), BadAnswer("nonsense"), DeviceError("odd"), InputError("no")]
)
def test_a_failure_ends_its_configuration_and_no_other(error: EdgeoptError) -> None:
    def launch(number: int, artifact: Runnable) -> Launch | Exception:
        return error if artifact.subject.target == "bad" else FINE

    place = Pretend(launch)
    bad, good = going(place, "bad", "good")
    assert (bad.failure, bad.whole) == (error, 0)
    assert (good.failure, good.whole) == (None, 2)
    assert place.measured == ["bad/onnx x1", "good/onnx x1", "good/onnx x1"], "what has failed is not tried again"


class Cut(Pretend):
    """Every launch after the first is cut off in its middle."""

    def __init__(self, failure: EdgeoptError, part: Launch = FINE) -> None:
        super().__init__()
        self.failure, self.part = failure, part

    def measure(self, artifact: Runnable, threads: int) -> LaunchOutcome:
        whole = super().measure(artifact, threads)
        return whole if len(self.measured) == 1 else LaunchOutcome(self.part, failure=self.failure)


def test_what_a_launch_measured_before_it_was_cut_off_is_kept() -> None:
    (found,) = going(Cut(RunFailed("killed")))
    assert (len(found.launches), found.whole, found.cut) == (2, 1, True)
    (empty,) = going(Cut(RunFailed("killed"), Launch(load_ns=5)))
    assert (len(empty.launches), empty.whole, empty.cut) == (1, 1, False)


def test_a_lost_link_ends_the_device_and_keeps_what_was_measured() -> None:
    place = Cut(LinkLost("gone"))
    configurations = [Configuration(runnable("a"), 1), Configuration(runnable("b"), 1)]
    with pytest.raises(LinkLost):
        Rounds(place, configurations, lambda name, how: None, threading.Event()).go()
    assert [(one.whole, one.cut) for one in configurations] == [(1, False), (0, True)]


def stopping(stop: threading.Event, then: Launch | Exception) -> Callable[[int, Runnable], Launch | Exception]:
    def launch(number: int, artifact: Runnable) -> Launch | Exception:
        if number == 1:
            stop.set()
            return then
        return FINE

    return launch


def test_stopping_ends_it_after_the_launch_that_runs() -> None:
    stop = threading.Event()
    found = going(Pretend(stopping(stop, FINE)), "a", "b", "c", stop=stop)
    assert [one.whole for one in found] == [1, 1, 0]


def test_a_run_that_was_killed_by_stopping_is_no_failure_of_its_own() -> None:
    stop = threading.Event()
    found = going(Pretend(stopping(stop, RunFailed("killed"))), "a", "b", "c", stop=stop)
    assert [(one.whole, one.failure) for one in found] == [(1, None), (0, None), (0, None)]


def test_stopping_ends_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    place = Pretend(lambda number, artifact: timed(100 if number == 0 else 500), settings=BenchSettings(launches=9))
    told: list[str] = []

    def tell(name: str, how: str) -> None:
        told.append(how)
        if how.startswith("throttled"):
            threading.Timer(0.05, stop.set).start()

    configuration = Configuration(runnable("a"), 1)
    Rounds(place, [configuration], tell, stop, pauses_s=(600.0, 600.0)).go()
    assert 0 < configuration.waited_s < 60
    assert told[1].startswith("launch 2 of 9, about ")


def test_a_place_that_pretends_is_a_place() -> None:
    place: Place = Pretend()
    arrays: tuple[Array, ...] = ()
    assert place.predict(runnable("a"), [arrays]) == [[]]
    assert place.settings is QUICK
