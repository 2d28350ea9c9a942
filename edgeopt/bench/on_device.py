"""The whole of one benchmark on one device: connect, hold it, measure, evaluate, judge. Whatever fails is a result."""

import threading
import traceback
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt import __version__, registry
from edgeopt.bench import judge
from edgeopt.bench.agreement import agreement, evaluated, refuse_noise
from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.clocks import lock_clocks
from edgeopt.bench.computed import Computed
from edgeopt.bench.events import MissingRuntime
from edgeopt.bench.inputs import Array, model_specs, synthetic
from edgeopt.bench.kept_lines import KeptLines
from edgeopt.bench.launch import PythonPlace
from edgeopt.bench.native_place import NativePlace
from edgeopt.bench.place import OnLine, Place
from edgeopt.bench.python import find_python, too_old
from edgeopt.bench.rounds import Configuration, Rounds
from edgeopt.bench.types import Agreement, BenchResult, DeviceRun, Operator
from edgeopt.core import TWIN
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.session import Session
from edgeopt.devices.state.facts import DeviceFacts, read_facts
from edgeopt.devices.transport import Transport, asked_by
from edgeopt.errors import DeviceError, EdgeoptError, LinkLost, MissingExtra, OutputError
from edgeopt.model.model import Evaluate, Predict
from edgeopt.support.files import write_atomic
from edgeopt.support.progress import Phase, event
from edgeopt.worker.client import WorkerHost
from edgeopt.worker.client import WorkerSession as HostSession

if TYPE_CHECKING:
    from edgeopt.bench.run import Request

LINES_NAME, HOST_LOG, FAULT_NAME = "lines.jsonl", "host.log", "fault.txt"
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class OnDevice:
    """One device's part of a benchmark. ``host`` runs artifacts on this computer, ``computed`` has what they gave, for all."""

    request: "Request"
    spec: DeviceSpec
    artifacts: list[Runnable]
    host: WorkerHost
    stop: threading.Event
    computed: Computed = field(default_factory=Computed)
    _transport: Transport | None = None
    _session: Session | None = None
    _facts: DeviceFacts | None = None
    _warnings: list[str] = field(default_factory=list)
    _configurations: list[Configuration] = field(default_factory=list)
    _results: list[BenchResult] = field(default_factory=list)
    _evaluating: bool = False
    _started: str = field(default_factory=lambda: _now())

    def __post_init__(self) -> None:
        self._warnings += [self.spec.changed] if self.spec.changed else []
        self._configurations = [
            Configuration(one, n, failure=one.failure) for one in self.artifacts for n in self.request.settings.threads
        ]

    def run(self, folder: Path) -> DeviceRun:
        """Everything; never raises for what the device does. Lines that runs print are kept in ``folder`` as they come."""
        failure = self._failure(folder)
        self._tell(self.spec.name, "failed" if failure else "done", failure.what if failure else "")
        return self.result(failure)

    def result(self, failure: EdgeoptError | None = None) -> DeviceRun:
        """What is known, also from another thread while it runs; ``failure`` is why it ended early."""
        settings, results = self.request.settings, list(self._results)
        known = {result.key for result in results}
        for configuration in self._configurations:
            one = judge.result(_ended(configuration, failure, self.stop.is_set(), settings.launches), settings)
            if one.key not in known:
                results.append(one)
        warnings = [*self._warnings, *(self._session.warnings if self._session else ())]
        return DeviceRun(
            device=self.spec.name, url=self.spec.url, started=self._started, finished=_now(), settings=settings,
            edgeopt_version=__version__, facts=self._facts, results=tuple(results),
            comparisons=judge.comparisons(results, TWIN), error=type(failure).__name__ if failure else "",
            reason=failure.message() if failure else "", warnings=tuple(dict.fromkeys(warnings)),
        )  # fmt: skip

    def check_host(self) -> None:
        """Raises MissingExtra where ``evaluate``, which runs here too, would find no runtime for an artifact."""
        for artifact in self.artifacts if self.request.evaluate is not None else ():
            self._runs_here(artifact)

    def interrupt(self) -> None:
        """From another thread: clears the device, which ends what runs there."""
        if self._session is not None:
            self._session.end()

    def disconnect(self) -> None:
        """From another thread: closes the connection, which ends whatever waits for it."""
        if self._transport is not None:
            self._transport.close()

    @property
    def stuck(self) -> bool:
        """Whether it is where nothing can end it from outside: not connected yet, or in the user's function."""
        return self._session is None or self._evaluating

    def _failure(self, folder: Path) -> EdgeoptError | None:
        """Fills the results; why that ended early, or None."""
        try:
            with closing(KeptLines(folder / LINES_NAME)) as lines:
                try:
                    self._connected(folder, lines)
                finally:
                    self._warnings += [f"{self.spec.name}: {lines.lost}"] if lines.lost else []
        except EdgeoptError as error:
            return error
        except Exception as error:  # a fault of ours, or of another package's kind of device, is not the other devices'
            return self._fault(folder, error)
        return None

    def _fault(self, folder: Path, error: Exception) -> DeviceError:
        fix = f"{folder / FAULT_NAME} says where: report it"
        try:
            write_atomic(folder / FAULT_NAME, "".join(traceback.format_exception(error)))
        except OutputError as full:
            fix = f"report it; where it happened could not be written: {full.why}"
        return DeviceError(f"edgeopt failed on {self.spec.name}", why=f"{type(error).__name__}: {error}"[:500], fix=fix)

    def _connected(self, folder: Path, lines: KeptLines) -> None:
        name, settings = self.spec.name, self.request.settings
        self._tell(name, "connect", self.spec.url)
        with ExitStack() as stack:
            self._transport = transport = registry.transport(self.spec.url, asked_by(name, self.request.ask))
            stack.callback(transport.close)
            if self.stop.is_set():  # it came too late, when nobody waits any more
                raise DeviceError(INTERRUPTED, fix="run it again")
            device = Device.connect(name, transport, self.spec.root)
            self._facts = facts = read_facts(transport, device.root)
            waiting = lambda holder: self._tell(name, "wait", f"in use by {holder}")  # noqa: E731
            self._session = session = stack.enter_context(device.session(wait_s=settings.wait_s, on_wait=waiting))
            place = self._place(session, facts, lines.keep)
            if settings.lock_clocks:
                self._warnings += lock_clocks(session, facts)
            self._push(place, session)
            Rounds(place, self._configurations, self._measuring, self.stop).go()
            for one in self._configurations:
                if not self.stop.is_set():
                    self._results.append(self._judged(place, one, folder))

    def _place(self, session: Session, facts: DeviceFacts, on_line: OnLine) -> Place:
        """Python where there is one, else native tools; what those cannot do is a warning."""
        request = self.request
        delegate, options = self.spec.delegate or "", self.spec.delegate_options
        python = find_python(session.device, self.spec, facts)
        if python is not None:
            return PythonPlace(
                session, request.settings, python, on_line, delegate=delegate, delegate_options=options, computed=self.computed
            )
        cannot = [
            *(["no accuracy: --evaluate needs Python there"] if request.evaluate is not None else []),
            *(["no sustained times: --sustained needs Python there"] if request.settings.sustained_seconds else []),
        ]
        self._warnings += [f"{self.spec.name}: {one}" for one in cannot]
        tools = {name: Path(path) for name, path in self.spec.tools.items()}
        return NativePlace(
            session,
            request.settings,
            facts.machine,
            facts.tools,
            tools,
            on_line,
            delegate=delegate,
            delegate_options=options,
            python=too_old(facts) if self.spec.python is None else "",
        )

    def _push(self, place: Place, session: Session) -> None:
        """Everything before anything is measured; what cannot be pushed fails alone."""
        for artifact in self.artifacts:
            if self.stop.is_set():
                return
            if artifact.failure is not None:
                self._tell(self._subject(artifact.name), "failed", artifact.failure.what)
                continue
            self._tell(self._subject(artifact.name), "push")
            try:
                with session.in_use():
                    place.path_of(artifact)
            except LinkLost:
                raise
            except DeviceError as error:
                for one in self._configurations:
                    if one.runnable is artifact:
                        one.failure = error

    def _judged(self, place: Place, configuration: Configuration, folder: Path) -> BenchResult:
        """The configuration's result with its outputs compared, the user's numbers, and the operators' times."""
        compared: Agreement | None = None
        accuracy: dict[str, float] = {}
        operators: tuple[Operator, ...] = ()
        try:
            if configuration.launches and configuration.failure is None:
                if place.gives_outputs:
                    compared, accuracy = self._proof(place, configuration, folder)
                refuse_noise(configuration.runnable, self.spec.name, compared)
                if self.request.settings.operators:
                    operators = self._operators(place, configuration)
        except LinkLost:
            raise
        except OutputError as error:  # no room for the log of what would have computed the same here
            self._warnings.append(f"{self.spec.name}: outputs of {configuration.runnable.name} are not compared: {error.why}")
        except EdgeoptError as error:
            configuration.failure = None if self.stop.is_set() else error
        return judge.result(configuration, self.request.settings, agreement=compared, accuracy=accuracy, operators=operators)

    def _operators(self, place: Place, one: Configuration) -> tuple[Operator, ...]:
        try:
            return place.operators(one.runnable, one.threads)
        except MissingRuntime as error:  # the artifact was measured: its runtime only has no such times
            self._warnings.append(f"{self.spec.name}: no times of operators of {one.runnable.name}: {error.why}")
            return ()

    def _proof(self, place: Place, one: Configuration, folder: Path) -> tuple[Agreement | None, dict[str, float]]:
        """Compared on the measured input, or, with ``evaluate``, on every input that it asks for."""
        runnable, evaluate, settings = one.runnable, self.request.evaluate, self.request.settings
        stand_in = self._runs_here(runnable)
        if stand_in is None:
            return None, {}
        request = {"format": stand_in.subject.format, "out": str(stand_in.path), "threads": 1}
        same = stand_in is runnable

        def start() -> HostSession:
            return self.host.session("predict", request, timeout_s=settings.timeout_s, log=folder / HOST_LOG)

        def compute() -> tuple[Array, ...]:
            with start() as here:
                return here.call(synthetic(runnable.inputs))

        if evaluate is not None and one.threads == settings.threads[0]:
            with start() as here:
                self._tell(self._subject(runnable.name), "evaluate")
                specs = self.request.specs or model_specs(runnable.inputs)
                accuracy, compared = evaluated(place, runnable, self._until_stopped(evaluate), specs, here.call, same)
                return compared, accuracy
        if not same or not one.outputs:
            return None, {}
        return agreement(runnable, [self.computed.get(runnable.subject.sha256, compute)], [one.outputs]), {}

    def _until_stopped(self, evaluate: Evaluate) -> Evaluate:
        """Ends the user's function, which no other thread can end, at its next prediction."""

        def stoppable(predict: Predict) -> dict[str, float]:
            def checked(*arrays: Any) -> tuple[Any, ...]:
                if self.stop.is_set():
                    raise DeviceError(INTERRUPTED, fix="run it again")
                return predict(*arrays)

            self._evaluating = True
            try:
                return evaluate(checked)
            finally:
                self._evaluating = False

        return stoppable

    def _runs_here(self, runnable: Runnable) -> Runnable | None:
        """The artifact itself where this computer has its runtime, else a fp32 twin that stands in for it.

        A runtime that is not installed here is a warning, since times need none; MissingExtra where ``evaluate`` needs it.
        """
        twins = [one for one in self.request.artifacts if one.subject.target == TWIN and one.failure is None]
        missing: MissingExtra | None = None
        for one in (runnable, *twins):
            try:
                if registry.converter(one.subject.format).runs_here:
                    return one
            except MissingExtra as error:
                missing = missing or error
        if missing is not None and self.request.evaluate is not None:
            raise MissingExtra("--evaluate cannot be run here", why=missing.why, fix=missing.fix) from missing
        if missing is not None:
            what = f"{runnable.subject.format} outputs are not compared with this computer's"
            self._warnings.append(f"{what}: {missing.why}; {missing.fix}")
        return None

    def _measuring(self, configuration: str, how: str) -> None:
        self._tell(self._subject(configuration), "measure", how)

    def _subject(self, name: str) -> str:
        return f"{self.spec.name}: {name}"

    def _tell(self, subject: str, phase: Phase, detail: str = "") -> None:
        self.request.listen(event(subject, phase, detail))


def _ended(configuration: Configuration, failure: EdgeoptError | None, stopped: bool, launches: int) -> Configuration:
    """What never came to its end has the device's failure as its own; on purpose, that is the interruption."""
    if configuration.failure is None and stopped:
        if configuration.whole < launches:
            configuration.failure = DeviceError(INTERRUPTED, fix="run it again")
    elif configuration.failure is None:
        configuration.failure = failure
    return configuration


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
