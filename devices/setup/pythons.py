"""The Pythons of a device: which there are, and which wheels each of them can use."""

from typing import Literal

from packaging.tags import mac_platforms
from pydantic import ValidationError

from edgeopt.core import data_class, from_json
from edgeopt.devices.session.session import Session
from edgeopt.devices.session.watched import watched
from edgeopt.devices.transport import NOT_FOUND, QUICK_S, Finished, Transport, text
from edgeopt.errors import BadAnswer, ConfigError, DeviceError, DeviceTimeout
from edgeopt.support.untrusted import shown

OLDEST = (3, 8)
"""The oldest Python that the runner works with."""
_NAMES = ("python3", *(f"python3.{minor}" for minor in range(15, 7, -1)))
_FOLDERS = "/usr/bin:/usr/local/bin:/opt/homebrew/bin:/data/data/com.termux/files/usr/bin"
"""Where Pythons are that a login without a terminal does not find."""
_MAX_BYTES = 64 * 1024
_PER_PYTHON_S = 5.0
_NAMED_S = QUICK_S + _PER_PYTHON_S
# Runs under whatever calls itself python3, so the plainest Python only.
_DESCRIBE = """
import glob, json, os, platform, struct, sys, sysconfig
try: libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError): libc = ""
if not libc and glob.glob("/lib/ld-musl-*"): libc = "musl"
if not libc and hasattr(sys, "getandroidapilevel"): libc = "bionic"
print(json.dumps({
    "executable": os.path.realpath(sys.executable), "version": list(sys.version_info[:3]),
    "implementation": sys.implementation.name, "system": platform.system(), "machine": platform.machine(),
    "bits": struct.calcsize("P") * 8, "libc": libc, "macos": platform.mac_ver()[0],
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""
_FIND = f"""
PATH=$PATH:{_FOLDERS}
code=$1
shift
for name in "$@"; do
    if found=$(command -v "$name"); then "$found" -E -s -c "$code" 2> /dev/null; fi
done
exit 0
"""
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST_GLIBC = {"x86_64": 5, "i686": 5}
_OLDEST_GLIBC_ELSEWHERE = 17


@data_class
class Python:
    """One Python of a device. ``executable`` is its absolute path there, with links followed."""

    executable: str
    version: tuple[int, int, int]
    implementation: str
    system: str
    """As ``uname -s`` says it: ``Linux`` or ``Darwin``."""
    machine: str
    bits: Literal[32, 64]
    libc: str
    """``glibc 2.36``, ``musl``, ``bionic`` (Android), or an empty text."""
    macos: str = ""
    free_threaded: bool = False

    def __post_init__(self) -> None:
        if not (self.executable.startswith("/") and self.executable.isprintable() and len(self.executable) < 4096):
            raise ValueError(f"not a program's path: {self.executable[:200]!r}")

    @property
    def short_version(self) -> str:
        """Such as ``3.11``."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def architecture(self) -> str:
        """The machine as wheels name it. A 64-bit kernel often carries 32-bit programs (Raspberry Pi OS): those count."""
        if self.bits == 32 and self.machine in ("aarch64", "armv8l", "armv7l"):
            return "armv7l"
        if self.bits == 32 and self.machine in ("x86_64", "i386", "i586", "i686"):
            return "i686"
        return (
            {"arm64": "aarch64", "amd64": "x86_64"}.get(self.machine, self.machine) if self.system == "Linux" else self.machine
        )

    @property
    def abi(self) -> str:
        """Such as ``cp311``, or ``cp313t`` without the global interpreter lock."""
        return f"cp{self.version[0]}{self.version[1]}{'t' if self.free_threaded else ''}"

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABI tags that it can load, best first (PEP 425; the stable ABI needs the lock)."""
        return (self.abi, "none") if self.free_threaded else (self.abi, "abi3", "none")

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags that it can load, best first (PEP 600 for glibc); empty where no wheel can fit."""
        if self.system == "Darwin":
            return tuple(mac_platforms(_macos(self.macos), self.machine))
        parts = self.libc.removeprefix("glibc ").split(".")
        if not self.libc.startswith("glibc ") or len(parts) < 2 or parts[0] != "2" or not parts[1].isdecimal():
            return ()
        oldest = _OLDEST_GLIBC.get(self.architecture, _OLDEST_GLIBC_ELSEWHERE)
        names: list[str] = []
        for minor in range(min(int(parts[1]), 99), oldest - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.architecture}")
            if minor in _LEGACY_MANYLINUX:
                names.append(f"{_LEGACY_MANYLINUX[minor]}_{self.architecture}")
        return (*names, f"linux_{self.architecture}")

    def unusable(self) -> str:
        """Why no wheel of a runtime can be for it; an empty text where one can."""
        if self.version[:2] < OLDEST:
            return f"Python {self.short_version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed"
        if self.implementation != "cpython":
            return f"it is {self.implementation}, and runtimes publish wheels for CPython only"
        if self.libc == "musl":
            return "its C library is musl, and neither ONNX Runtime nor LiteRT publish wheels for that"
        if self.libc == "bionic":
            return "it is Android's, and neither ONNX Runtime nor LiteRT publish wheels for that"
        if not self.platforms:
            return f"nothing is known of wheels for {self.system} with the C library {self.libc or 'that it does not name'!r}"
        return ""

    def describe(self) -> str:
        """Such as ``Python 3.11 on aarch64, glibc 2.36``."""
        beside = f"macOS {self.macos}" if self.system == "Darwin" else self.libc or self.system
        lock = ", free-threaded" if self.free_threaded else ""
        return f"Python {self.short_version}{lock} on {self.architecture}, {beside}"


def find(name: str, transport: Transport) -> tuple[Python, ...]:
    """The Pythons of the device ``name``: its ``python3``, then the others, newest first.

    Raises DeviceError where there is none, BadAnswer where what it says about them makes no sense.
    """
    seconds = QUICK_S + _PER_PYTHON_S * len(_NAMES)
    command = watched(("sh", "-c", _FIND, "sh", _DESCRIBE, *_NAMES), seconds)
    done = transport.run(command, timeout_s=seconds, limit=_MAX_BYTES)
    found = {python.executable: python for python in _read(name, done.stdout)}  # python3 stays before what it leads to
    if not found:
        why = "none of python3, python3.8 ... python3.15 is there"
        fix = "install Python there (Debian: apt install python3), or use native tools: edgeopt doctor says which"
        raise DeviceError(f"{name} has no Python", why=why, fix=fix)
    return tuple(found.values())


def named(session: Session, python: str) -> Python:
    """The one that ``devices.toml`` names for the session's device, as it describes itself.

    Raises ConfigError for an empty text, and DeviceTimeout, BadAnswer or another DeviceError for what is no Python. All name
    that line.
    """
    name, what = session.device.name, f"python = {shown(python)} of {session.device.name} in devices.toml cannot be set up"
    if not python:
        why = "it says that no Python there is to be used"
        raise ConfigError(what, why=why, fix="leave out that line, or name a Python there; native tools need no setup")
    try:
        done = session.run("describe", (python, "-E", "-s", "-c", _DESCRIBE), timeout_s=_NAMED_S, limit=_MAX_BYTES)
        found = _read(name, done.stdout) if done.exit_code == 0 else []
    except (DeviceTimeout, BadAnswer) as error:
        raise type(error)(what, why=error.message()[:500], fix=_correct(python)) from error
    if len(found) != 1:
        raise DeviceError(what, why=_no_python(done), fix=_correct(python))
    return found[0]


def _correct(python: str) -> str:
    path = "the whole path of " if not python.startswith("/") else ""
    return f"name {path}a Python there in that line, or leave it out: edgeopt then looks for one"


def _no_python(done: Finished) -> str:
    if done.exit_code == NOT_FOUND:
        return "there is no such program there"
    said = text(done.stderr).strip().splitlines()[-1:]
    return (
        f"it does not say what it is as a Python does (exit code {done.exit_code}{': ' if said else ''}{''.join(said)[:300]})"
    )


def _read(name: str, printed: bytes) -> list[Python]:
    try:
        # Whatever a sitecustomize prints is not ours.
        return [from_json(Python, line) for line in text(printed).splitlines() if line.startswith('{"executable"')]
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise BadAnswer(
            f"{name} says nonsense about its Python", why=wrong[:300], fix="run python3 -VV there and look"
        ) from error


def _macos(release: str) -> tuple[int, int]:
    """``14.5`` as numbers. A device may say anything: beyond 99 nothing is, and what is no number has no platforms."""
    major, minor, *_ = [min(int(part), 99) for part in release.split(".")[:2] if part.isdecimal()] + [0, 0]
    return major, minor
