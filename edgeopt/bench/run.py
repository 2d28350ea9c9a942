"""A benchmark on several devices at once: a thread for each, none of which can harm another's."""

import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgeopt.bench.artifacts import Runnable, selected
from edgeopt.bench.computed import Computed
from edgeopt.bench.on_device import OnDevice
from edgeopt.bench.types import BenchSettings, DeviceRun
from edgeopt.core import TensorSpec, to_json
from edgeopt.devices.base import Ask
from edgeopt.devices.known import DeviceSpec
from edgeopt.files import make_folder, write_atomic
from edgeopt.model import Evaluate
from edgeopt.options import Listener, ignore
from edgeopt.worker.client import WorkerHost

RESULT_NAME = "result.json"
_LEAVE_S = 15.0
"""After Ctrl-C: how long devices get to be cleared, before the rest is left to their own reapers."""


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
    _jobs: list[OnDevice] = field(default_factory=list)
    _host: WorkerHost = field(default_factory=lambda: WorkerHost(("edgeopt.tasks",)))
    """Starts when the first device has been measured: before, it would disturb a measurement on this computer."""

    def run(self) -> tuple[DeviceRun, ...]:
        """Runs on every device; each result is written as soon as its device is done. In the order of the devices asked for.

        A device that fails is a result with its reason. KeyboardInterrupt is passed on when the devices are cleared and what
        they measured so far is written.
        """
        request = self.request
        chosen = [(device, selected(list(request.artifacts), request.targets, device)) for device in request.devices]
        computed = Computed()
        self._jobs = [OnDevice(request, device, found, self._host, self._stop, computed) for device, found in chosen]
        self.folders = _folders(request)
        with (
            closing(self._host),
            ThreadPoolExecutor(max_workers=max(1, len(self._jobs)), thread_name_prefix="device") as pool,
        ):
            pending = [pool.submit(_one, job, folder) for job, folder in zip(self._jobs, self.folders, strict=True)]
            try:
                _wait(pending)
            except BaseException:
                self.stop(pending)
                raise
        return tuple(future.result() for future in pending)

    def stop(self, pending: "Sequence[Future[DeviceRun]]" = ()) -> None:
        """Ends every run and clears every device; one that does not answer is left to its own reaper."""
        self._stop.set()
        closing = [threading.Thread(target=job.interrupt, daemon=True) for job in self._jobs]
        for thread in closing:
            thread.start()
        until = time.monotonic() + _LEAVE_S
        for thread in closing:
            thread.join(max(0.0, until - time.monotonic()))
        for job in self._jobs:
            job.disconnect()
        self._host.close()
        wait(pending, timeout=_LEAVE_S)


def _one(job: OnDevice, folder: Path) -> DeviceRun:
    make_folder(folder)
    found = job.run(folder)
    write_atomic(folder / RESULT_NAME, to_json(found))
    return found


def _wait(pending: "Sequence[Future[DeviceRun]]") -> None:
    """In slices, since a wait without an end would not let Ctrl-C through on every platform."""
    while wait(pending, timeout=0.5).not_done:
        pass


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
