"""A benchmark on several devices at once: a thread for each, none of which can harm another's."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgeopt.bench.artifacts import Runnable, selected
from edgeopt.bench.computed import Computed
from edgeopt.bench.kept_lines import drop
from edgeopt.bench.on_device import HOST_LOG, LINES_NAME, OnDevice
from edgeopt.bench.types import BenchSettings, DeviceRun
from edgeopt.core import TensorSpec, to_json
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.transport import Ask
from edgeopt.errors import OutputError
from edgeopt.model.model import Evaluate
from edgeopt.support.files import make_folder, write_atomic
from edgeopt.support.progress import Listener, ignore
from edgeopt.worker.client import WorkerHost

RESULT_NAME = "result.json"
_LEAVE_S = 15.0
"""After Ctrl-C: how long devices get to be cleared, before the rest is left to their own reapers."""
_STUCK_S = 1.0
"""After that: how long a thread is waited for that hangs where it cannot be ended, and has nothing more to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run, where, and how. ``specs``: the inputs that ``evaluate``'s predict takes."""

    artifacts: Sequence[Runnable]
    devices: Sequence[DeviceSpec]
    settings: BenchSettings
    out: Path
    ask: Ask
    targets: tuple[str, ...] = ()
    evaluate: Evaluate | None = None
    specs: tuple[TensorSpec, ...] = ()
    listen: Listener = ignore


@dataclass(slots=True)
class Benchmark:
    """One benchmark. :meth:`run` it once; :meth:`stop` it from another thread, or with Ctrl-C."""

    request: Request
    folders: list[Path] = field(default_factory=list)
    """Where each device's results are, in the order of the devices; known once it runs."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _working: "list[_Working]" = field(default_factory=list)
    _host: WorkerHost = field(default_factory=lambda: WorkerHost(("edgeopt.pipeline.tasks",)))
    """Starts when the first device has been measured: before, it would disturb a measurement on this computer."""

    def run(self) -> tuple[DeviceRun, ...]:
        """Runs on every device; each result is written as soon as its device is done. In the order of the devices asked for.

        MissingExtra is raised before, where evaluate cannot run here. A device that fails is a result with its reason;
        ``unwritten`` has what could not be written. KeyboardInterrupt is
        passed on when the devices are cleared and what they measured so far is written.
        """
        request = self.request
        chosen = [(device, selected(list(request.artifacts), request.targets, device)) for device in request.devices]
        computed = Computed()
        jobs = [OnDevice(request, device, found, self._host, self._stop, computed) for device, found in chosen]
        for job in jobs:
            job.check_host()
        self.folders = _folders(request)
        self._working = [_Working(job, folder) for job, folder in zip(jobs, self.folders, strict=True)]
        with closing(self._host):
            try:
                for one in self._working:
                    one.start()
                for one in self._working:
                    one.wait()
            except BaseException:
                self.stop()
                raise
        return tuple(one.result() for one in self._working)

    @property
    def unwritten(self) -> list[OutputError]:
        """Why results are not in their folders, for each that is not: what was measured is in what :meth:`run` gives alone."""
        return [one.unwritten for one in self._working if one.unwritten is not None]

    @property
    def left_behind(self) -> bool:
        """Whether a thread still runs that :meth:`stop` could not end."""
        return any(one.is_alive() for one in self._working)

    def stop(self) -> None:
        """Ends every run and clears every device; one that does not answer is left to its own reaper.

        A thread that still connects, or is in the user's ``evaluate``, is left behind with what its device has measured.
        """
        self._stop.set()
        closing = [threading.Thread(target=one.job.interrupt, daemon=True) for one in self._working]
        for thread in closing:
            thread.start()
        until = time.monotonic() + _LEAVE_S
        for thread in closing:
            thread.join(max(0.0, until - time.monotonic()))
        for one in self._working:
            one.job.disconnect()
        self._host.close()
        start = time.monotonic()
        for one in self._working:
            one.leave(start)


class _Working(threading.Thread):
    """One device's part in a thread of its own, which the program's end does not wait for, as it does for those of a pool."""

    def __init__(self, job: OnDevice, folder: Path) -> None:
        super().__init__(name=f"device {job.spec.name}", daemon=True)
        self.job = job
        self.unwritten: OutputError | None = None
        self._folder = folder
        self._over = threading.Event()
        self._keeping = threading.Lock()
        self._found: DeviceRun | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Measures, and writes what was measured."""
        self._finish(lambda: self.job.run(self._folder))

    def wait(self) -> None:
        """In slices, since a wait without an end would not let Ctrl-C through on every platform."""
        while not self._over.wait(0.2):
            pass

    def leave(self, start: float) -> None:
        """Waits for its end, from ``start`` on; what hangs is left behind, with what there is as its result."""
        while not self._over.wait(0.05):
            if time.monotonic() > start + (_STUCK_S if self.job.stuck else _LEAVE_S):
                self._finish(self.job.result)

    def result(self) -> DeviceRun:
        """What it found; raises what it raised."""
        if self._found is None:
            assert self._error is not None
            raise self._error
        return self._found

    def _finish(self, find: Callable[[], DeviceRun]) -> None:
        try:
            make_folder(self._folder)
            found = find()
            with self._keeping:  # the first result counts: a thread that was left behind has been answered for
                if self._found is None:
                    self._write(found)
                    self._found = found
        except BaseException as error:  # whoever asks for the result is told
            self._error = error
        finally:
            self._over.set()

    def _write(self, found: DeviceRun) -> None:
        """The result, where there is room for it: if need be, in the place of what says the same at greater length."""
        try:
            write_atomic(self._folder / RESULT_NAME, to_json(found))
        except OutputError:
            for name in (LINES_NAME, HOST_LOG):
                drop(self._folder / name)
            try:
                write_atomic(self._folder / RESULT_NAME, to_json(found))
            except OutputError as error:
                self.unwritten = error
                with suppress(OSError):
                    self._folder.rmdir()


def _folders(request: Request) -> list[Path]:
    """``OUT/<UTC time>-<device>``; a device asked for twice gets a number."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    found: list[Path] = []
    for device in request.devices:
        plain = request.out / f"{moment}-{re.sub(r'[^A-Za-z0-9._-]+', '-', device.name)}"
        folder, number = plain, 2
        while folder in found or folder.exists():
            folder, number = plain.with_name(f"{plain.name}-{number}"), number + 1
        found.append(folder)
    return found
