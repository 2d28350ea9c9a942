"""The launches of one device: round by round over all configurations, so that heat and noise meet each of them alike.

A launch during which the device was throttled is repeated after a pause; what remains doubtful is marked.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inputs import Array
from edgeopt.bench.place import Place
from edgeopt.bench.types import Launch
from edgeopt.devices.state.environment import Environment
from edgeopt.errors import EdgeoptError, LinkLost
from edgeopt.support.stats import THROTTLED_RATIO

RETRIES = 2
PAUSES_S = (15.0, 45.0)
"""Before the first and the second repetition."""

Tell = Callable[[str, str], None]
"""Takes a configuration's name and what happens to it."""


@dataclass(slots=True)
class Configuration:
    """One artifact with one number of threads, and what became of it so far."""

    runnable: Runnable
    threads: int
    launches: list[Launch] = field(default_factory=list)
    cut: bool = False
    """Whether the last of ``launches`` ended before its time: it has what was measured until then."""
    outputs: list[Array] = field(default_factory=list)
    """Of the first launch's first inference."""
    before: Environment | None = None
    after: Environment | None = None
    waited_s: float = 0.0
    discarded: int = 0
    throttled: str = ""
    """Why the last launch was throttled although it had been repeated."""
    failure: EdgeoptError | None = None

    @property
    def name(self) -> str:
        """How progress calls it."""
        return f"{self.runnable.name} x{self.threads}"

    @property
    def whole(self) -> int:
        """Launches that came to their end."""
        return len(self.launches) - self.cut


@dataclass(slots=True)
class Rounds:
    """Runs all launches of ``configurations``. A failure ends its configuration; a lost link raises."""

    place: Place
    configurations: list[Configuration]
    tell: Tell
    stop: threading.Event
    pauses_s: tuple[float, ...] = PAUSES_S
    _workload_ns: float | None = None
    """Time of the runner's fixed workload when the device was fresh."""
    _spent_s: list[float] = field(default_factory=list)

    def go(self) -> None:
        """All rounds; ends early where ``stop`` is set."""
        launches = self.place.settings.launches
        for number in range(launches):
            for index, configuration in enumerate(self.configurations):
                if self.stop.is_set():
                    return
                if configuration.failure is None:
                    done = number * len(self.configurations) + index
                    left = self._left(launches * len(self.configurations) - done)
                    launch = f"launch {number + 1} of {launches}"
                    self.tell(configuration.name, f"{launch}{left}")
                    self._attempt(configuration, launch)

    def _attempt(self, configuration: Configuration, name: str) -> None:
        start = time.monotonic()
        try:
            self._launch(configuration, name)
        except LinkLost:
            raise
        except EdgeoptError as error:
            if not self.stop.is_set():  # else it was killed on purpose, which is no failure of its own
                configuration.failure = error
                self.tell(configuration.name, f"failed: {error.what}")
        self._spent_s.append(time.monotonic() - start)

    def _launch(self, configuration: Configuration, name: str) -> None:
        for attempt in range(RETRIES + 1):
            before = self.place.environment()
            configuration.before = configuration.before or before
            measured = self.place.measure(configuration.runnable, configuration.threads)
            if measured.failure is not None:
                self._keep_cut(configuration, measured.launch)
                raise measured.failure
            after = self.place.environment()
            reason = self._throttled(measured.launch, after)
            if reason and attempt < min(RETRIES, len(self.pauses_s)) and not self.stop.is_set():
                self._pause(configuration, reason, self.pauses_s[attempt])
                self.tell(configuration.name, f"{name}, again")
                continue
            configuration.throttled = configuration.throttled or reason
            configuration.after = after
            configuration.outputs = configuration.outputs or measured.outputs
            configuration.launches.append(measured.launch)
            return

    def _keep_cut(self, configuration: Configuration, launch: Launch) -> None:
        if launch.samples_ns or launch.summary:
            configuration.launches.append(launch)
            configuration.cut = True

    def _pause(self, configuration: Configuration, reason: str, seconds: float) -> None:
        self.tell(configuration.name, f"throttled ({reason}): waiting {seconds:.0f} s")
        start = time.monotonic()
        self.stop.wait(seconds)
        configuration.waited_s += time.monotonic() - start
        configuration.discarded += 1

    def _throttled(self, launch: Launch, after: Environment) -> str:
        """Why the launch's times are those of a throttled device; empty where they are not."""
        if after.thermal_status:
            return f"thermal status {after.thermal_status}"
        times = [event["workload_ns"] for event in launch.environment if isinstance(event.get("workload_ns"), int)]
        if not times:
            return ""
        now = min(times)  # heat slows down every time; neighbours only some
        if self._workload_ns is None:
            self._workload_ns = float(now)
        ratio = now / self._workload_ns if self._workload_ns > 0 else 1.0
        self._workload_ns = min(self._workload_ns, now)
        return f"a fixed piece of work takes {ratio:.2f} times as long as at the start" if ratio > THROTTLED_RATIO else ""

    def _left(self, launches: int) -> str:
        if not self._spent_s:
            return ""
        seconds = launches * sum(self._spent_s) / len(self._spent_s)
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
