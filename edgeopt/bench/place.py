"""Where artifacts run: what the rounds, the proof of outputs and the accuracy need of a device, whatever measures there.

PythonPlace (launch.py)         the runner, in the device's Python
NativePlace (native_place.py)   LiteRT's and ONNX Runtime's own benchmark programs, where there is no Python
"""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inputs import Array
from edgeopt.bench.types import BenchSettings, Launch, Operator
from edgeopt.devices.session.session import Session, failed
from edgeopt.devices.state.environment import Environment
from edgeopt.devices.transport import OnBytes
from edgeopt.errors import EdgeoptError
from edgeopt.support.scratch import scratch

START_S = 120.0
"""For a slow board to start Python and import a runtime, beyond what the runs themselves may take."""

# No symbolic link: ONNX Runtime refuses weights to which one leads in another folder.
_NAME = 'mkdir -p "${2%/*}" && { ln -f "$1" "$2" 2> /dev/null || cp "$1" "$2"; }'

OnLine = Callable[[str], None]
Elements = tuple[int, ...] | None
"""How many elements each output has, over all samples, on this computer: a device that gives more lies. None: not known."""


@dataclass(frozen=True, slots=True)
class LaunchOutcome:
    """What one launch gave. Where it did not come to its end, ``failure`` says why and ``launch`` has what came before."""

    launch: Launch
    outputs: list[Array] = field(default_factory=list)
    """Of the first inference, in the artifact's own dtypes; none where a native tool measured."""
    failure: EdgeoptError | None = None


class Place(Protocol):
    """A device that is held for oneself. All but ``measure`` raise what goes wrong."""

    @property
    def name(self) -> str:
        """The device's."""

    @property
    def settings(self) -> BenchSettings:
        """How to measure."""

    @property
    def gives_outputs(self) -> bool:
        """Whether ``measure`` gives outputs, and ``predict`` works."""

    def environment(self) -> Environment:
        """How the device is just now."""

    def path_of(self, runnable: Runnable) -> str:
        """Where the artifact is on the device, pushed now where it is not there yet."""

    def measure(self, runnable: Runnable, threads: int) -> LaunchOutcome:
        """One launch."""

    def operators(self, runnable: Runnable, threads: int) -> tuple[Operator, ...]:
        """Mean times of the operators, from a launch of their own: a profiler slows down what it watches."""

    def predict(self, runnable: Runnable, samples: Sequence[tuple[Array, ...]], elements: Elements = None) -> list[list[Array]]:
        """The artifact's own outputs for each of ``samples``, arrays in the artifact's own dtypes."""


@dataclass(slots=True)
class Shelf:
    """The artifacts on a device, each of them there once."""

    session: Session
    timeout_s: float
    on_bytes: OnBytes
    _paths: dict[str, str] = field(default_factory=dict)

    def path_of(self, runnable: Runnable) -> str:
        """See :class:`Place`; a Core ML package travels as one file and is unpacked there."""
        digest = runnable.subject.sha256
        if digest not in self._paths:
            put = self._packed if runnable.path.is_dir() else self._together if runnable.beside else self._alone
            self._paths[digest] = put(runnable)
        return self._paths[digest]

    def _alone(self, runnable: Runnable) -> str:
        return self._plain(runnable.path)

    def _together(self, runnable: Runnable) -> str:
        """The artifact and the files beside it under their own names, by which it finds them."""
        folder = f"{self.session.folder}/artifact-{runnable.subject.sha256[:16]}"
        for name in (*runnable.beside, runnable.path.name):
            command = ("sh", "-c", _NAME, "sh", self._plain(runnable.path.parent / name), f"{folder}/{name}")
            done = self.session.run("name", command, timeout_s=self.timeout_s)
            if done.exit_code != 0:
                raise failed(self.session.device.name, f"put {name} in its place", done)
        return f"{folder}/{runnable.path.name}"

    def _plain(self, path: Path) -> str:
        return self.session.push(path, on_bytes=self.on_bytes)

    def _packed(self, runnable: Runnable) -> str:
        name = f"artifact-{runnable.subject.sha256[:16]}{runnable.path.suffix}"
        with scratch() as folder:
            packed = folder / "package.tar"
            with tarfile.open(packed, "w") as tar:
                tar.add(runnable.path, arcname=name, filter=_anonymous)
            stored = self._plain(packed)
        done = self.session.run("unpack", ("tar", "-xf", stored), timeout_s=self.timeout_s)
        if done.exit_code != 0:
            raise failed(self.session.device.name, f"unpack {runnable.path.name}", done)
        return f"{self.session.folder}/{name}"


def patience(settings: BenchSettings) -> float:
    """Seconds that one launch may take: the user's limit, or what was asked of it where that is longer."""
    asked = settings.max_seconds + settings.sustained_seconds + START_S
    return max(settings.timeout_s, asked) if settings.sustained_seconds else settings.timeout_s


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes on every computer, so that a package is pushed once."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry
