"""The whole of one benchmark on one device: connect, hold it, measure, evaluate, judge. Whatever fails is a result."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeopt import __version__, registry
from edgeopt.bench import judge
from edgeopt.bench.agreement import Host, agreement, evaluated
from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.clocks import lock_clocks
from edgeopt.bench.inputs import model_specs, synthetic
from edgeopt.bench.launch import OnLine, Place
from edgeopt.bench.python import python_of
from edgeopt.bench.rounds import Configuration, Rounds
from edgeopt.bench.types import Agreement, BenchResult, DeviceRun, Operator
from edgeopt.core import TWIN
from edgeopt.devices.device import Device
from edgeopt.devices.facts import DeviceFacts, read_facts
from edgeopt.devices.known import DeviceSpec
from edgeopt.errors import DeviceError, EdgeoptError, LinkLost
from edgeopt.options import Phase
from edgeopt.progress import event
from edgeopt.worker.client import WorkerHost

if TYPE_CHECKING:
    from edgeopt.bench.run import Request

LINES_NAME = "lines.jsonl"


@dataclass(slots=True)
class OnDevice:
    """One device's part of a benchmark."""

    request: "Request"
    spec: DeviceSpec
    artifacts: list[Runnable]
    stop: threading.Event
    _device: Device | None = None
    _place: Place | None = None
    _facts: DeviceFacts | None = None
    _warnings: list[str] = field(default_factory=list)
    _configurations: list[Configuration] = field(default_factory=list)

    def run(self, folder: Path) -> DeviceRun:
        """Everything; never raises for what the device does. Lines that runs print are kept in ``folder`` as they come."""
        started = _now()
        settings = self.request.settings
        self._configurations = [Configuration(one, threads) for one in self.artifacts for threads in settings.threads]
        failure: EdgeoptError | None = None
        results: list[BenchResult] = []
        try:
            with (folder / LINES_NAME).open("w", encoding="utf-8") as lines:
                self._connected(lines, results)
        except EdgeoptError as error:
            failure = error
        known = {judge.key(result) for result in results}
        for configuration in self._configurations:
            one = judge.result(_ended(configuration, failure, self.stop.is_set(), settings.launches), settings)
            if judge.key(one) not in known:
                results.append(one)
        self._tell(self.spec.name, "failed" if failure else "done", failure.what if failure else "")
        return DeviceRun(
            device=self.spec.name, url=self.spec.url, started=started, finished=_now(), settings=settings,
            edgeopt_version=__version__, facts=self._facts, results=tuple(results),
            comparisons=judge.comparisons(results, TWIN), error=type(failure).__name__ if failure else "",
            reason=failure.message() if failure else "", warnings=tuple(self._warnings),
        )  # fmt: skip

    def interrupt(self) -> None:
        """From another thread: clears the device, which ends what runs there."""
        if self._place is not None:
            self._place.session.end()

    def disconnect(self) -> None:
        """From another thread: closes the connection, which ends whatever waits for it."""
        if self._device is not None:
            self._device.close()

    def _connected(self, lines: TextIO, results: list[BenchResult]) -> None:
        name, settings = self.spec.name, self.request.settings
        self._tell(name, "connect", self.spec.url)
        with ExitStack() as stack:
            transport = registry.transport(self.spec.url, self.request.ask)
            stack.callback(transport.close)
            self._device = device = Device.connect(name, transport, self.spec.root)
            self._facts = facts = read_facts(transport, device.root)
            waiting = lambda holder: self._tell(name, "wait", f"in use by {holder}")  # noqa: E731
            session = stack.enter_context(device.session(wait_s=settings.wait_s, on_wait=waiting))
            stack.callback(lambda: self._warnings.extend(session.warnings))
            self._place = place = Place(session, settings, python_of(device, self.spec, facts), on_line=_keeping(lines))
            if settings.lock_clocks:
                self._warnings += lock_clocks(session, facts)
            for artifact in self.artifacts:
                self._tell(self._subject(artifact.name), "push")
                place.path_of(artifact)
            Rounds(place, self._configurations, self._measuring, self.stop).go()
            with WorkerHost(("edgeopt.tasks",)) as host:
                results += [self._judged(place, one, host, lines) for one in self._configurations if not self.stop.is_set()]

    def _judged(self, place: Place, configuration: Configuration, host: WorkerHost, lines: TextIO) -> BenchResult:
        """The configuration's result with its outputs compared, the user's numbers, and the operators' times."""
        compared: Agreement | None = None
        accuracy: dict[str, float] = {}
        operators: tuple[Operator, ...] = ()
        try:
            if configuration.launches and configuration.failure is None:
                compared, accuracy = self._proof(place, configuration, host)
                if self.request.settings.operators:
                    operators = place.operators(configuration.runnable, configuration.threads)
        except LinkLost:
            raise
        except EdgeoptError as error:
            configuration.failure = error
        return judge.result(configuration, self.request.settings, agreement=compared, accuracy=accuracy, operators=operators)

    def _proof(self, place: Place, one: Configuration, workers: WorkerHost) -> tuple[Agreement | None, dict[str, float]]:
        """Compared on the measured input, or, with ``evaluate``, on every input that it asks for."""
        runnable = one.runnable
        stand_in = self._runs_here(runnable)
        if stand_in is None:
            return None, {}
        log = Path(self.request.out) / "host.log"
        request = {"format": stand_in.subject.format, "out": str(stand_in.path), "threads": 1}
        with workers.session("predict", request, timeout_s=self.request.settings.timeout_s, log=log) as here:
            host: Host = here.call
            if self.request.evaluate is not None and one.threads == self.request.settings.threads[0]:
                self._tell(self._subject(runnable.name), "evaluate")
                accuracy, compared = evaluated(
                    place,
                    runnable,
                    self.request.evaluate,
                    self.request.specs or model_specs(runnable.inputs),
                    host,
                    stand_in is runnable,
                )
                return compared, accuracy
            if stand_in is not runnable or not one.outputs:
                return None, {}
            return agreement(runnable, [host(synthetic(runnable.inputs))], [one.outputs]), {}

    def _runs_here(self, runnable: Runnable) -> Runnable | None:
        """The artifact itself where this computer has its runtime, else a fp32 twin that stands in for it."""
        twins = [one for one in self.request.artifacts if one.subject.target == TWIN]
        return next((one for one in (runnable, *twins) if registry.converter(one.subject.format).runs_here), None)

    def _measuring(self, configuration: str, how: str) -> None:
        self._tell(self._subject(configuration), "measure", how)

    def _subject(self, name: str) -> str:
        return f"{self.spec.name}: {name}"

    def _tell(self, subject: str, phase: Phase, detail: str = "") -> None:
        self.request.listen(event(subject, phase, detail))


def _ended(configuration: Configuration, failure: EdgeoptError | None, stopped: bool, launches: int) -> Configuration:
    """What never came to its end has the device's failure as its own."""
    if configuration.failure is None and failure is not None:
        configuration.failure = failure
    elif configuration.failure is None and stopped and len(configuration.launches) < launches:
        configuration.failure = DeviceError("interrupted", fix="run it again")
    return configuration


def _keeping(lines: TextIO) -> OnLine:
    def keep(line: str) -> None:
        lines.write(line + "\n")
        lines.flush()

    return keep


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
