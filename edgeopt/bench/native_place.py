"""A device without Python: LiteRT's ``benchmark_model`` and ONNX Runtime's ``onnxruntime_perf_test`` measure there."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.events import Reader
from edgeopt.bench.inputs import Array
from edgeopt.bench.place import Elements, LaunchOutcome, OnLine, Shelf, patience
from edgeopt.bench.types import DELEGATE, BenchSettings, Operator
from edgeopt.devices.native import native
from edgeopt.devices.native.job import Mode, NativeFormat, NativeJob
from edgeopt.devices.session.session import Session, failed
from edgeopt.devices.state.environment import Environment, read_environment
from edgeopt.devices.transport import MAX_OUTPUT_BYTES, QUICK_S, Finished, OnBytes
from edgeopt.errors import DeviceError, EdgeoptError, RunFailed

MAX_LIBRARIES = 40
_LIBRARY = re.compile(r"lib[A-Za-z0-9._+-]{1,100}\.so(?:\.[0-9]+)*")
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
# Loaders look for libraries by their names, and the store names files by their digests.
_LINK = 'mkdir -p "$2" && ln -sf "$1" "$2/$3"'


@dataclass(slots=True)
class NativePlace:
    """A session on a device with the tools that measure there. See :class:`edgeopt.bench.place.Place`."""

    session: Session
    settings: BenchSettings
    machine: str
    """The device's, as ``uname -m`` says it."""
    found: Mapping[str, str]
    """Tools that are on the device, by name."""
    configured: Mapping[str, Path]
    """Tools on this computer, by name; these come first."""
    on_line: OnLine = lambda line: None
    """Gets every line that a tool prints, and every event that was read from them."""
    on_bytes: OnBytes = lambda count: None
    delegate: str = ""
    """The LiteRT delegate on the device for the accelerator of that name, and what it takes."""
    delegate_options: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    """Why the device's Python does not measure, where it has one."""
    _tools: dict[str, str] = field(default_factory=dict)
    _shelf: Shelf | None = None

    gives_outputs = False

    @property
    def name(self) -> str:
        return self.session.device.name

    def environment(self) -> Environment:
        return read_environment(self.session.device.transport, self.session.device.root)

    def path_of(self, runnable: Runnable) -> str:
        self._tool(runnable.subject.format)  # what nothing there can run is not pushed
        if self._shelf is None:
            self._shelf = Shelf(self.session, self.settings.timeout_s, self.on_bytes)
        return self._shelf.path_of(runnable)

    def measure(self, runnable: Runnable, threads: int) -> LaunchOutcome:
        reader = self._reader(runnable)
        try:
            with self.session.in_use():
                self._run(reader, runnable, threads, "measure")
        except EdgeoptError as error:
            return LaunchOutcome(reader.launch, failure=error)
        return LaunchOutcome(reader.launch)

    def operators(self, runnable: Runnable, threads: int) -> tuple[Operator, ...]:
        reader = self._reader(runnable)
        with self.session.in_use():
            self._run(reader, runnable, threads, "operators")
        return reader.operators

    def predict(self, runnable: Runnable, samples: Sequence[tuple[Array, ...]], elements: Elements = None) -> list[list[Array]]:
        """Raises DeviceError: no native tool gives its outputs."""
        fix = "leave out --evaluate for this device, or install Python there"
        raise DeviceError(f"predictions of {runnable.name} on {self.name} need Python there", fix=fix)

    def _reader(self, runnable: Runnable) -> Reader:
        return Reader(f"{runnable.name} on {self.name}", self.name)

    def _run(self, reader: Reader, runnable: Runnable, threads: int, mode: Mode) -> None:
        settings = self.settings
        tool = self._tool(runnable.subject.format)
        job = NativeJob(
            format=cast(NativeFormat, runnable.subject.format), tool=tool, artifact=self.path_of(runnable), mode=mode,
            threads=threads, cpus=settings.cpus, accelerator=settings.accelerator, fail_on_fallback=settings.fail_on_fallback,
            min_runs=settings.min_runs, min_seconds=settings.min_seconds, max_seconds=settings.max_seconds,
            timeout_s=patience(settings), delegate=self.delegate if settings.accelerator == DELEGATE else "",
            delegate_options=self.delegate_options,
        )  # fmt: skip
        for event in native.measure(_Kept(self.session, self.on_line), job):
            self.on_line(json.dumps(event))
            reader.take(event)
        reader.finish(0, "")

    def _tool(self, form: str) -> str:
        if form not in self._tools:
            self._tools[form] = native.tool_for(form, self.machine, self.found, self.configured, self._push, self.python)
        return self._tools[form]

    def _push(self, tool: Path) -> str:
        """The tool and the shared libraries beside it; the tool's path there."""
        beside = sorted(path for path in tool.absolute().parent.iterdir() if _LIBRARY.fullmatch(path.name) and path.is_file())
        if len(beside) > MAX_LIBRARIES:
            raise RunFailed(
                f"{tool} stands among {len(beside)} shared libraries", why="those beside a tool are pushed with it",
                fix="put the tool into a folder of its own, with the libraries that it needs",
            )  # fmt: skip
        folder = f"tool-{len(self._tools)}"
        for library in beside:
            self._link(self.session.push(library, name="library.so", on_bytes=self.on_bytes), folder, library.name)
        program = tool.name if _PROGRAM.fullmatch(tool.name) else "tool"
        self._link(self.session.push(tool, name="tool", executable=True, on_bytes=self.on_bytes), folder, program)
        return f"{self.session.folder}/{folder}/{program}"

    def _link(self, stored: str, folder: str, name: str) -> None:
        done = self.session.run("link", ("sh", "-c", _LINK, "sh", stored, folder, name), timeout_s=QUICK_S)
        if done.exit_code != 0:
            raise failed(self.name, f"link {name}", done)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A session whose runs' lines are kept: a tool's own words tell what its events leave out."""

    session: Session
    on_line: OnLine

    def run(self, name: str, command: Sequence[str], *, timeout_s: float, limit: int = MAX_OUTPUT_BYTES) -> Finished:
        return self.session.run(name, command, timeout_s=timeout_s, on_line=self.on_line, limit=limit)

    def read(self, name: str, *, limit: int = MAX_OUTPUT_BYTES) -> bytes:
        return self.session.read(name, limit=limit)
