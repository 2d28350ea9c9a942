"""Wheels for another computer: chosen and fetched here by pip, packed into one archive for the device."""

import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes
from hashlib import sha256
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edgeopt.devices.setup.pythons import Python
from edgeopt.errors import DeviceError, MissingExtra
from edgeopt.support.cache import drop_oldest
from edgeopt.support.files import make_folder, sha256_of, writing
from edgeopt.support.seal import holds, seal
from edgeopt.support.untrusted import read

_PIP_S = 900
_MAX_CACHE_BYTES = 2 << 30
_SEAL = "seal"
_SEAL_BYTES = 1024
"""Of wheels that are kept here: those for a few Pythons, of all runtimes, in two versions."""
_NOT_THERE = ("No matching distribution found", "Could not find a version that satisfies")
_NO_CONNECTION = (
    "NewConnectionError", "NameResolutionError", "Temporary failure in name resolution", "Network is unreachable",
    "ConnectTimeout", "Read timed out", "ReadTimeoutError", "ProxyError", "SSLError", "ConnectionResetError",
)  # fmt: skip
_BUILT_WITH_NUMPY_1 = {"tflite-runtime"}
"""They say that any numpy will do, and then fail on import with numpy 2."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel file."""

    path: Path

    @property
    def name(self) -> str:
        """The distribution's name, in its one spelling: lower case, with hyphens."""
        return str(parse_wheel_filename(self.path.name)[0])

    @property
    def version(self) -> str:
        return str(parse_wheel_filename(self.path.name)[1])

    def unpacked_bytes(self) -> int:
        with zipfile.ZipFile(self.path) as wheel:
            return sum(info.file_size for info in wheel.infolist())

    def needs(self, name: str, python: Python) -> SpecifierSet:
        """The versions of ``name`` that it says it works with on ``python``."""
        with zipfile.ZipFile(self.path) as wheel:
            inner = next(entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
            metadata = message_from_bytes(wheel.read(inner))
        wanted = SpecifierSet()
        for line in metadata.get_all("Requires-Dist", []):
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # an old wheel's own spelling, which pip would pass over too
            marker = requirement.marker
            if canonicalize_name(requirement.name) == name and (marker is None or marker.evaluate(_environment(python))):
                wanted &= requirement.specifier
        return wanted


def _environment(python: Python) -> dict[str, str]:
    """What markers are judged by (PEP 508), where it is not as here."""
    return {
        "python_version": python.short_version,
        "python_full_version": ".".join(map(str, python.version)),
        "platform_machine": python.architecture,
        "platform_system": python.system,
        "sys_platform": python.system.lower(),
        "extra": "",
    }


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches wheels for one Python of the device ``device``, and keeps them below ``cache``."""

    device: str
    python: Python
    cache: Path

    def fetch(self, requirement: str) -> Wheel | None:
        """The newest wheel for ``requirement`` alone, or None where none is published for this Python.

        Raises DeviceError where pip cannot look (no connection), MissingExtra where there is no pip.
        """
        key = sha256("\n".join((requirement, *self._options())).encode()).hexdigest()[:24]
        entry = self.cache / key
        kept = _sealed(entry)
        if kept is None:
            make_folder(entry)
            with writing(entry), TemporaryDirectory(dir=entry, prefix=".making-") as making:
                if not self._download(requirement, making):
                    return None
                fetched = next(Path(making).glob("*.whl"))
                kept = fetched.replace(entry / fetched.name)
                _seal(kept)
            drop_oldest(self.cache, _MAX_CACHE_BYTES)
        with suppress(OSError):  # a cache that may only be read
            os.utime(entry)
        return Wheel(kept)

    def _options(self) -> Iterator[str]:
        yield from ("--python-version", self.python.short_version, "--implementation", "cp")
        for abi in self.python.abis:
            yield from ("--abi", abi)
        for platform in self.python.platforms:
            yield from ("--platform", platform)

    def _download(self, requirement: str, folder: str) -> bool:
        if PathFinder.find_spec("pip") is None:  # setuptools' own finder would warn where distutils is loaded
            raise MissingExtra("pip is not installed here", why="it fetches wheels for devices", fix="python -m ensurepip")
        quiet = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2")
        command = (sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary", ":all:", *self._options())
        try:
            done = subprocess.run(
                (*command, "--dest", folder, "--", requirement), capture_output=True, text=True, timeout=_PIP_S
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(
                requirement, f"pip took more than {_PIP_S} s", "check the connection of this computer"
            ) from error
        if done.returncode == 0:
            return True
        said = done.stderr + done.stdout
        if cause := next((word for word in _NO_CONNECTION if word in said), ""):
            fix = "connect this computer to the internet once, or set PIP_FIND_LINKS to a folder that holds the wheels"
            raise self._failed(requirement, f"pip has no connection ({cause})", fix)
        if any(phrase in said for phrase in _NOT_THERE):
            return False
        raise self._failed(requirement, said.strip()[-500:], f"try it by hand: {shlex.join(command)}")

    def _failed(self, requirement: str, why: str, fix: str) -> DeviceError:
        return DeviceError(f"cannot fetch {requirement} for {self.device} ({self.python.describe()})", why=why, fix=fix)


def _seal(wheel: Path) -> None:
    """What is installed on devices must be what an index gave, whoever else may write to the cache."""
    wheel.with_name(_SEAL).write_text(seal(wheel.parent.name, wheel.name, sha256_of(wheel)))


def _sealed(entry: Path) -> Path | None:
    """The wheel in ``entry``; None where there is none that was put there by this user."""
    for wheel in entry.glob("*.whl"):
        with suppress(OSError, UnicodeDecodeError):
            if holds(read(wheel.with_name(_SEAL), _SEAL_BYTES).decode(), entry.name, wheel.name, sha256_of(wheel)):
                return wheel
    return None


def version_here(distribution: str) -> str | None:
    """The version that is installed in this very Python, as an index names it."""
    try:
        return Version(version(distribution)).public
    except PackageNotFoundError:
        return None


def choose(fetcher: Fetcher, distribution: str) -> Wheel | None:
    """The version that is installed here, so that both compute the same; else the newest for that Python; else None."""
    here = version_here(distribution)
    return (here and fetcher.fetch(f"{distribution}=={here}")) or fetcher.fetch(distribution)


def choose_numpy(fetcher: Fetcher, wheels: Sequence[Wheel]) -> Wheel | None:
    """The numpy that all of ``wheels`` work with; the version that is installed here where that is one."""
    allowed = SpecifierSet()
    for wheel in wheels:
        allowed &= wheel.needs("numpy", fetcher.python)
        if wheel.name in _BUILT_WITH_NUMPY_1:
            allowed &= SpecifierSet("<2")
    here = version_here("numpy")
    same = fetcher.fetch(f"numpy=={here}") if here and allowed.contains(here) else None
    return same or fetcher.fetch(f"numpy{allowed}")


def digest_of(wheels: Sequence[Wheel]) -> str:
    """Names the set of wheels: the same files give the same digest."""
    lines = sorted(f"{wheel.path.name} {sha256_of(wheel.path)}\n" for wheel in wheels)
    return sha256("".join(lines).encode()).hexdigest()[:16]


def pack(wheels: Sequence[Wheel], archive: Path) -> None:
    """One zip file that holds the wheels as they are; the same wheels give the same bytes."""
    with writing(archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as outer:
        for wheel in sorted(wheels, key=lambda one: one.path.name):
            outer.writestr(zipfile.ZipInfo(wheel.path.name, _EPOCH), wheel.path.read_bytes())
