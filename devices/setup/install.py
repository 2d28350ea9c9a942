"""Installs the runtimes on a device that needs no internet: wheels are fetched here, pushed, and unpacked there.

ROOT/runtimes/DIGEST/                   numpy and the runtimes, for PYTHONPATH; named after the wheels in it
ROOT/runtimes/DIGEST/installed.json     written last, when everything there could be imported
ROOT/runtimes/current                   the digest in use
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from edgeopt.core import data_class, from_json, to_json
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.session import ROOM_TO_SPARE, Session, failed
from edgeopt.devices.setup import pythons, wheels
from edgeopt.devices.setup.pythons import Python
from edgeopt.devices.setup.unpack import NO_ROOM
from edgeopt.devices.setup.wheels import Fetcher, Wheel, choose, choose_numpy, digest_of, pack
from edgeopt.devices.transport import NOT_FOUND, QUICK_S, Finished, text
from edgeopt.devices.variables import with_variables
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, UnknownName, did_you_mean
from edgeopt.support.cache import default_root
from edgeopt.support.untrusted import shown

OnStep = Callable[[str], None]
"""Takes what is being done now, in words."""
_UNPACK_S = 900.0
_IMPORT_S = 300.0
_MAX_BYTES = 64 * 1024
_MARKER = "installed.json"


@dataclass(frozen=True, slots=True)
class _Package:
    distribution: str
    module: str


_RUNTIMES = {
    "onnx": (_Package("onnxruntime", "onnxruntime"),),
    # The old name of LiteRT: it has wheels for older Pythons and 32-bit boards.
    "tflite": (
        _Package("ai-edge-litert", "ai_edge_litert.interpreter"),
        _Package("tflite-runtime", "tflite_runtime.interpreter"),
    ),
}
"""By format: the packages that run it, the best first. Nothing but numpy is imported by any of them (tried, not declared)."""
_IMPORT = """
import importlib, sys
for module in sys.argv[1:]:
    print("importing", module, flush=True)
    importlib.import_module(module)
print("imported", *sys.argv[1:])
"""
_CAUSES = (
    (132, "an instruction that this processor does not have", "this wheel needs a newer processor: use native tools there"),
    (137, "it was killed, most likely for memory", "free some memory on the device"),
    (139, "it crashed (segmentation fault)", "report it to the runtime's project, with the device's /proc/cpuinfo"),
)
_READ_CURRENT = 'cd "$1/runtimes" 2> /dev/null && read -r name < current && echo "$name" && cat "./$name/$2"'
_MAKE_CURRENT = """
cd "$1/runtimes" && mv -f "$3" "./$2/" || exit 1
printf '%s\\n' "$2" > "current.new" && mv -f current.new current || exit 1
for folder in *; do
    if [ -d "$folder" ] && [ "$folder" != "$2" ]; then rm -rf "./$folder"; fi
done
"""


@data_class
class Installed:
    """The runtimes of a device. Programs find them with ``folder`` as PYTHONPATH and ``python`` as interpreter."""

    python: str
    """Absolute path of the interpreter on the device, with links followed."""
    python_version: str
    folder: str
    runtimes: dict[str, str]
    """By format, the distribution that runs it, such as ``{"onnx": "onnxruntime"}``."""
    versions: dict[str, str]
    """By distribution, numpy included."""
    notes: tuple[str, ...] = ()
    """Where something else than the first choice was taken, and why."""
    named: str = ""
    """The ``python`` of ``devices.toml`` that they were installed for, as it stands there."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """The wheels for one Python of the device."""

    python: Python
    packages: dict[str, _Package]
    wheels: tuple[Wheel, ...]
    notes: tuple[str, ...]
    named: str = ""
    """What ``devices.toml`` calls this Python: it may be a link of a virtual environment, or a script that starts it."""

    @property
    def program(self) -> str:
        return self.named or self.python.executable

    def installed(self, folder: str) -> Installed:
        return Installed(
            python=self.python.executable,
            python_version=self.python.short_version,
            folder=folder,
            runtimes={runtime: package.distribution for runtime, package in self.packages.items()},
            versions={wheel.name: wheel.version for wheel in self.wheels},
            notes=self.notes,
            named=self.named,
        )


class _NoWheel(Exception):
    """There is no wheel of something for a Python; says which."""


def installed(device: Device) -> Installed | None:
    """The runtimes that :func:`setup` has put on ``device``; None where it has not.

    Raises BadAnswer where what the device says about them makes no sense.
    """
    command = ("sh", "-c", _READ_CURRENT, "sh", device.root, _MARKER)
    done = device.transport.run(command, timeout_s=QUICK_S, limit=_MAX_BYTES)
    if done.exit_code != 0:
        return None
    digest, _, marker = text(done.stdout).partition("\n")
    try:
        found = from_json(Installed, marker)
        if not re.fullmatch("[0-9a-f]{16}", digest) or found.folder != f"{device.root}/runtimes/{digest}":
            raise ValueError("its folder is another one")
        if not (found.python.startswith("/") and found.python.isprintable()):
            raise ValueError("its Python is no path")
    except (ValidationError, ValueError) as error:
        why = f"{device.root}/runtimes is damaged: {str(error)[:300]}"
        raise BadAnswer(
            f"{device.name} says nonsense about its runtimes",
            why=why,
            fix=f"rm -r {device.root}/runtimes there, then set it up again",
        ) from error
    return found


def setup(
    session: Session,
    *,
    runtimes: Sequence[str] = tuple(_RUNTIMES),
    python: str | None = None,
    on_step: OnStep = lambda step: None,
) -> Installed:
    """Installs ``runtimes`` (formats: ``onnx``, ``tflite``) for a Python of the session's device, and imports them there.

    ``python``: the one that ``devices.toml`` names, which is then the only one that counts; None: the first that there is.
    The versions are those installed here where there are wheels of them, so that device and host compute the same. Sends
    nothing where the same wheels are already there. What was installed before goes away once the new one works.

    Raises UnknownName for a runtime that is not known, DeviceError where there are no wheels for the device's Python, or they
    cannot be fetched or do not work there, or ``python`` is none (ConfigError where it is empty), DeviceFull where there is no
    room, MissingExtra where pip is missing here.
    """
    device = session.device
    for runtime in runtimes:
        if runtime not in _RUNTIMES:
            fix = did_you_mean(runtime, _RUNTIMES) or f"known: {', '.join(_RUNTIMES)}"
            raise UnknownName(f"edgeopt installs no runtime for {runtime!r}", fix=fix)
    on_step("looking for Python")
    found = pythons.find(device.name, device.transport) if python is None else (pythons.named(session, python),)
    choice = _choose(device.name, found, runtimes, on_step, python or "")
    digest = digest_of(choice.wheels)
    folder = f"{device.root}/runtimes/{digest}"
    there = _readable(device)
    wanted = choice.installed(folder)
    if there is None or there.folder != folder:
        _install(session, choice, folder, on_step)
    on_step("importing the runtimes there")
    _import(session, choice, folder)
    if there != wanted:
        _make_current(session, digest, wanted)
    return wanted


def _readable(device: Device) -> Installed | None:
    try:
        return installed(device)
    except BadAnswer:
        return None  # what is damaged is replaced


def _choose(device: str, found: Sequence[Python], runtimes: Sequence[str], on_step: OnStep, named: str) -> _Choice:
    """The first of the device's Pythons that has wheels for all of ``runtimes``; ``named``: what devices.toml calls it."""
    refused: list[str] = []
    for python in found:
        why = python.unusable()
        if not why:
            try:
                fetcher = Fetcher(device, python, default_root() / "wheels")
                return replace(_choose_wheels(fetcher, runtimes, on_step), named=named)
            except _NoWheel as error:
                why = str(error)
        refused.append(f"{python.executable} ({python.describe()}): {why}")
    others = f", or only what there is: {', '.join(_RUNTIMES)} one by one" if len(runtimes) > 1 else ""
    another = f"name another Python than python = {shown(named)} in devices.toml" if named else "install a Python there"
    fix = f"{another} that has wheels (CPython 3.10 to 3.13, 64 bits, glibc){others}, or use native tools"
    raise DeviceError(f"no Python of {device} can be set up for {' and '.join(runtimes)}", why="; ".join(refused), fix=fix)


def _choose_wheels(fetcher: Fetcher, runtimes: Sequence[str], on_step: OnStep) -> _Choice:
    packages: dict[str, _Package] = {}
    chosen: list[Wheel] = []
    notes: list[str] = []
    for runtime in runtimes:
        for package in _RUNTIMES[runtime]:
            on_step(f"fetching {package.distribution} for {fetcher.python.describe()}")
            if wheel := choose(fetcher, package.distribution):
                break
            notes.append(f"there is no wheel of {package.distribution} for {fetcher.python.describe()}")
        else:
            raise _NoWheel(notes[-1])
        packages[runtime] = package
        chosen.append(wheel)
        here = wheels.version_here(package.distribution)
        if here and here != wheel.version:
            notes.append(f"{package.distribution} {wheel.version} there, {here} here: it has no wheel for that Python")
    on_step("fetching numpy")
    numpy = choose_numpy(fetcher, chosen)
    if numpy is None:
        raise _NoWheel(f"there is no wheel of numpy for {fetcher.python.describe()} that {' and '.join(packages)} work with")
    return _Choice(fetcher.python, packages, (*chosen, numpy), tuple(notes))


def _install(session: Session, choice: _Choice, folder: str, on_step: OnStep) -> None:
    """Puts the wheels' files into ``folder``, by one rename; the session clears what an interruption leaves."""
    size = sum(wheel.path.stat().st_size for wheel in choice.wheels)
    _check_room(session.device, size + sum(wheel.unpacked_bytes() for wheel in choice.wheels))
    on_step(f"sending {size / 1e6:.0f} MB")
    with TemporaryDirectory() as here:
        archive = Path(here, "wheels.zip")
        pack(choice.wheels, archive)
        there = session.push(archive)
    on_step("unpacking there")
    script = session.write("unpack.py", (files(__package__) / "unpack.py").read_bytes())
    command = (choice.program, "-E", "-s", script, there, "runtimes")
    _expect(session, session.run("unpack", command, timeout_s=_UNPACK_S), "unpack the wheels")
    move = 'rm -rf "$2" && mkdir -p "$1" && mv runtimes "$2" && rm -f "$3"'
    parent = f"{session.device.root}/runtimes"
    done = session.run("move", ("sh", "-c", move, "sh", parent, folder, there), timeout_s=_UNPACK_S)
    _expect(session, done, "move the wheels to their place")


def _import(session: Session, choice: _Choice, folder: str) -> None:
    """Imports every runtime on the device, as the runner will. Raises DeviceError with the cause, and removes ``folder``."""
    modules = ("numpy", *(package.module for package in choice.packages.values()))
    environment = {"PYTHONPATH": folder, "PYTHONNOUSERSITE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    command = with_variables(environment, (choice.program, "-c", _IMPORT, *modules))
    done = session.run("import", command, timeout_s=_IMPORT_S)
    printed = text(done.stdout).splitlines()
    if done.exit_code == 0 and printed[-1:] == [" ".join(("imported", *modules))]:
        return
    session.run("remove", ("rm", "-rf", folder), timeout_s=_UNPACK_S)
    module = next((line.removeprefix("importing ") for line in reversed(printed) if line.startswith("importing ")), "numpy")
    why, fix = _cause(done)
    raise DeviceError(f"{session.device.name} cannot import {module[:100]} ({choice.python.describe()})", why=why, fix=fix)


def _cause(done: Finished) -> tuple[str, str]:
    """Why an import failed, and the next step."""
    for exit_code, why, fix in _CAUSES:
        if done.exit_code == exit_code:
            return why, fix
    said = text(done.stderr).strip().splitlines()[-1:] or [f"exit code {done.exit_code}"]
    if missing := re.search(r"(lib[\w+.-]+\.so[\d.]*): cannot open shared object", said[0]):
        return said[0][:300], f"install the package that has {missing[1]} there (Debian: apt install libstdc++6 libgomp1)"
    return said[0][:300], "try the same import by hand there"


def _make_current(session: Session, digest: str, wanted: Installed) -> None:
    """From now on it counts; the folders of earlier ones are removed, since nobody else has the device."""
    marker = session.write(_MARKER, to_json(wanted).encode())
    command = ("sh", "-c", _MAKE_CURRENT, "sh", session.device.root, digest, marker)
    done = session.run("current", command, timeout_s=_UNPACK_S)
    _expect(session, done, "keep the new runtimes")


def _check_room(device: Device, wanted: int) -> None:
    done = device.transport.run(("df", "-Pk", device.root), timeout_s=QUICK_S)
    if done.exit_code == NOT_FOUND:
        return  # a device without df(1) says at the latest while it unpacks that it is full
    words = [word for line in text(done.stdout).splitlines()[-1:] for word in line.split()]
    if done.exit_code != 0 or len(words) < 4 or not words[3].isdecimal():
        raise failed(device.name, "say how much room it has", done)
    free = int(words[3]) * 1024
    if free < wanted + ROOM_TO_SPARE:
        raise _full(device, f"they need {wanted / 1e6:.0f} MB, {free / 1e6:.0f} MB are free at {device.root}")


def _full(device: Device, why: str) -> DeviceFull:
    fix = f"make room there, or clear what earlier runs stored: edgeopt devices clean {device.name}"
    return DeviceFull(f"{device.name} has no room for the runtimes", why=why, fix=fix)


def _expect(session: Session, done: Finished, action: str) -> None:
    if done.exit_code == NO_ROOM:
        raise _full(session.device, "its disk ran full while they were unpacked")
    if done.exit_code != 0:
        raise failed(session.device.name, action, done)
