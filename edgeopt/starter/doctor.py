"""What is installed, what is missing and the command that installs it; looked up without importing anything heavy."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edgeopt.devices.adb.server import is_running
from edgeopt.devices.native.job import WHERE
from edgeopt.support import extras, processor
from edgeopt.support.cache import default_root

GIB = 2**30
_ENOUGH_MEMORY_GIB = 4
_ENOUGH_DISK_GIB = 2
PURPOSES = {
    "torch": "capturing and quantizing models",
    "onnx": "ONNX artifacts",
    "tflite": "TFLite artifacts",
    "coreml": "Core ML artifacts",
    "compress": "compressing models, and advice on it",
    "devices": "benchmarks on devices",
}
"""What each extra is for; what it brings is read from the installed edgeopt's own metadata."""
_INT8_FEATURES = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""As /proc/cpuinfo spells them: x86 first, then ARM's dot product and int8 matrix instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked up: what was found, what it is needed for, and the command or step that mends it."""

    name: str
    ok: bool
    found: str
    needed_for: str
    fix: str = ""


def diagnose() -> tuple[Check, ...]:
    """Python, every extra's packages with the versions this release is tested with, this computer, and the ways to devices."""
    try:
        distribution(extras.DISTRIBUTION)
    except PackageNotFoundError:
        fix = "pip install . in the folder that holds pyproject.toml"
        return (
            Check(name=extras.DISTRIBUTION, ok=False, found="source code, not installed", needed_for="everything", fix=fix),
        )
    return (_python(), *_packages(), _cache(), _cpu(), _memory(), _disk(), *_devices())


def _python() -> Check:
    wanted = SpecifierSet(distribution(extras.DISTRIBUTION).metadata["Requires-Python"])
    found = platform.python_version()
    ok = wanted.contains(found, prereleases=True)
    return Check(name="python", ok=ok, found=found, needed_for="everything", fix="" if ok else f"install Python {wanted}")


def _packages() -> Iterator[Check]:
    for extra, purpose in PURPOSES.items():
        for requirement in extras.own(extra):
            if requirement.name != extras.DISTRIBUTION:
                yield _package(requirement, extra, purpose)


def _package(requirement: Requirement, extra: str, purpose: str) -> Check:
    install = extras.command(extra)
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(name=requirement.name, ok=False, found="not installed", needed_for=purpose, fix=install)
    if find_spec(extras.module_of(requirement)) is None:
        fix = f"pip install --force-reinstall '{requirement.name}=={found}'"
        return Check(name=requirement.name, ok=False, found=f"{found}, but it has no module", needed_for=purpose, fix=fix)
    if requirement.specifier.contains(found, prereleases=True):
        return Check(name=requirement.name, ok=True, found=found, needed_for=purpose)
    untested = f"{found}, not in the tested range {requirement.specifier}"
    return Check(name=requirement.name, ok=False, found=untested, needed_for=purpose, fix=install)


def _cache() -> Check:
    root = default_root()
    purpose = "not doing unchanged work again"
    writable = os.access(_nearest_existing(root), os.W_OK | os.X_OK)
    fix = "" if writable else "set EDGEOPT_CACHE to a folder you may write to"
    found = f"{root}, {_folder_size(root) / GIB:.2f} GiB" if writable else f"{root} cannot be written"
    return Check(name="cache", ok=writable, found=found, needed_for=purpose, fix=fix)


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.resolve().parents) if folder.exists())


def _folder_size(root: Path) -> int:
    sizes = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                sizes += (Path(folder) / name).lstat().st_size
            except FileNotFoundError:  # another export may prune the cache meanwhile
                continue
    return sizes


def _cpu() -> Check:
    found = [name for name in _INT8_FEATURES if name in processor.flags()]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    fast = any(name != "avx2" for name in found)
    purpose = "int8 artifacts that are faster than float32 ones when timed here"
    if not Path("/proc/cpuinfo").exists():
        return Check(name="cpu", ok=True, found=f"{machine}, features not known", needed_for=purpose)
    fix = "" if fast else "none here: judge speed on the device itself (x86-fbgemm-avx2 is made for CPUs like this one)"
    return Check(name="cpu", ok=fast, found=", ".join([machine, *found]), needed_for=purpose, fix=fix)


def _memory() -> Check:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, flags=re.MULTILINE)
    purpose = "converting several targets at once"
    if match is None:
        return Check(name="memory", ok=True, found="free memory not known", needed_for=purpose)
    free = int(match[1]) * 1024
    return _amount("memory", free, _ENOUGH_MEMORY_GIB, purpose, "close other programs, or export with --jobs 1")


def _disk() -> Check:
    free = shutil.disk_usage(_nearest_existing(default_root())).free
    return _amount("disk", free, _ENOUGH_DISK_GIB, "artifacts, their cache and temporary files", "free some space")


def _amount(name: str, free: int, enough_gib: int, purpose: str, fix: str) -> Check:
    ok = free >= enough_gib * GIB
    found = f"{free / GIB:.1f} GiB free" + ("" if ok else f", less than {enough_gib} GiB")
    return Check(name=name, ok=ok, found=found, needed_for=purpose, fix="" if ok else fix)


def _devices() -> Iterator[Check]:
    """Ways to devices. None is a fault where it is missing: who has no phone needs no ADB server."""
    yield _ssh()
    server = "answers" if is_running() else "does not run: adb start-server (Android's platform-tools) starts it"
    yield Check(name="adb server", ok=True, found=server, needed_for="phones by USB or paired Wi-Fi (adb://SERIAL)")
    for tool, where in WHERE.items():
        yield Check(
            name=tool, ok=True, found=f"where it comes from: {where}", needed_for="devices without Python, such as phones"
        )


def _ssh() -> Check:
    if shutil.which("ssh") is None:
        found = "no `ssh` on the PATH: apt install openssh-client (Debian) brings it"
        return Check(name="ssh", ok=True, found=found, needed_for="devices over SSH (ssh://...)")
    keys = sorted(path.stem for path in (Path.home() / ".ssh").glob("id_*.pub"))
    agent = ["an agent"] if Path(os.environ.get("SSH_AUTH_SOCK", "")).is_socket() else []
    nothing = "no keys: passwords are asked for; ssh-keygen -t ed25519 and ssh-copy-id USER@HOST end that"
    return Check(name="ssh", ok=True, found=", ".join(keys + agent) or nothing, needed_for="devices over SSH (ssh://...)")
