"""What a device is: what stays the same from one run to the next. Asked by ``facts.sh``, judged here."""

import re
import shlex
from dataclasses import field
from typing import Literal

from edgeopt.core import data_class
from edgeopt.devices.state.limits import CpuQuota, smallest_quota
from edgeopt.devices.state.probe import Lines, Runs, ask, lines
from edgeopt.devices.state.processors import cores, summary

Kind = Literal["android", "linux", "macos", "unknown"]
KIB = 1024
MAX_CPUS = 1024
MAX_BYTES = float(1 << 60)
MAX_KHZ = 20e6
_KINDS: dict[str, Kind] = {"Linux": "linux", "Darwin": "macos"}


@data_class
class Cluster:
    """Cores of the same kind that can be clocked equally fast."""

    cpus: tuple[int, ...]
    core: str = ""
    max_khz: int | None = None


@data_class
class DeviceFacts:
    """What the device says it is. An empty text or None: it does not say."""

    kind: Kind = "unknown"
    system: str = ""
    """Such as ``Debian GNU/Linux 12 (bookworm)``, ``Android 14 (API 34)`` or ``macOS 15.1``."""
    model: str = ""
    machine: str = ""
    """As ``uname -m`` gives it: what a wheel or a native tool must be made for."""
    kernel: str = ""
    libc: str = ""
    chip: str = ""
    cpu: str = ""
    cores: int | None = None
    clusters: tuple[Cluster, ...] = ()
    quota: CpuQuota | None = None
    """The least of the quotas that hold for what a login starts there."""
    allowed: str = ""
    """The CPUs that it may use, such as ``0-3``."""
    features: tuple[str, ...] = ()
    """Instructions that matter for inference, as /proc/cpuinfo spells them; ``hypervisor`` for a virtual machine."""
    memory_bytes: int | None = None
    free_bytes: int | None = None
    """Room where edgeopt's folder is."""
    python: str = ""
    """Path of ``python3``."""
    python_version: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    """Native benchmark tools by name, with their path there."""
    battery: bool | None = None
    """None where it cannot be seen without asking for the environment (Android, macOS)."""
    boot: str = ""
    """Another one after each start of the device."""
    unreadable: tuple[str, ...] = ()

    @property
    def limited(self) -> tuple[str, ...]:
        """What of its processor may be used, where that is not all; see :func:`limited`."""
        return limited(self.cores or 0, self.quota, self.allowed)


def read_facts(device: Runs, root: str) -> DeviceFacts:
    """Asks the device; ``root`` is edgeopt's folder there. Raises BadAnswer where it has no POSIX shell."""
    return parse_facts(ask(device, "facts", root))


def parse_facts(output: bytes) -> DeviceFacts:
    """What ``facts.sh facts`` printed. Any bytes give a result; values that cannot be are left out and named."""
    found = lines(output)
    properties = getprop(found.all("getprop"))
    sysctl = dict(_pair(line) for line in found.all("sysctl"))
    names = cores(found.all("cpuinfo"))
    memory = found.whole("MemTotal", 1, int(MAX_BYTES / KIB))
    free = found.whole("free", 0, int(MAX_BYTES / KIB))
    kind: Kind = "android" if properties else _KINDS.get(found.one("system"), "unknown")
    return DeviceFacts(
        kind=kind,
        system=_system(found, properties),
        model=_model(found, properties, sysctl),
        machine=_word(found.one("machine")),
        kernel=found.one("kernel"),
        libc="bionic" if kind == "android" else found.one("libc"),
        chip=_chip(properties, found),
        cpu=summary(names) or sysctl.get("machdep.cpu.brand_string", ""),
        cores=len(names) or _whole(sysctl.get("hw.ncpu", "")) or count(found.one("online")),
        clusters=_clusters(found, names),
        quota=smallest_quota(found),
        allowed=allowed(found),
        features=tuple(word for word in found.one("features").split() if _word(word)),
        memory_bytes=memory * KIB if memory is not None else _whole(sysctl.get("hw.memsize", "")),
        free_bytes=None if free is None else free * KIB,
        python=_path(found.one("python")),
        python_version=_version(found.one("python_version")),
        tools=_tools(found),
        battery=bool(found.all("battery_level") or found.all("battery_status")) if kind == "linux" else None,
        boot=_word(found.one("boot")) or sysctl.get("kern.bootsessionuuid", ""),
        unreadable=tuple(found.unreadable),
    )


def getprop(output: list[str]) -> dict[str, str]:
    """Android's properties from the lines of ``getprop``: ``[ro.product.model]: [Pixel 8]``. Of two equal names the first."""
    found: dict[str, str] = {}
    for line in output:
        match = re.fullmatch(r"\[([\w.\-]{1,100})\]: \[(.{0,300})\]", line)
        if match:
            found.setdefault(match[1], match[2])
    return found


def count(online: str) -> int | None:
    """How many CPUs a list such as ``0-3,6`` names; None where it is no such list."""
    total = 0
    for piece in online.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", piece.strip())
        if match is None:
            return None
        total += max(int(match[2] or match[1]) - int(match[1]) + 1, 0)
    return total if 0 < total <= MAX_CPUS else None


def limited(cores: int, quota: CpuQuota | None, allowed: str) -> tuple[str, ...]:
    """``0.2 CPUs: cpu.max 20000 100000`` and ``CPUs 0-1 of 4``, where ``quota`` or the list ``allowed`` leave less than all."""
    found = []
    if quota is not None and not 0 < cores <= quota.cpus:
        found.append(f"{quota.cpus:.3g} CPU{'' if quota.cpus == 1 else 's'}: {quota.said}")
    if (count(allowed) or cores) < cores:
        found.append(f"CPU{'' if count(allowed) == 1 else 's'} {allowed} of {cores}")
    return tuple(found)


def allowed(found: Lines) -> str:
    """The list of CPUs that may be used; an empty text where it is none."""
    said = found.one("allowed")
    if said and count(said) is None:
        found.doubt("allowed", said)
        return ""
    return said


def _system(found: Lines, properties: dict[str, str]) -> str:
    if "ro.build.version.release" in properties:
        level = properties.get("ro.build.version.sdk", "")
        return f"Android {properties['ro.build.version.release']}" + (f" (API {level})" if level else "")
    if found.one("macos"):
        return f"macOS {found.one('macos')}"
    try:
        return " ".join(shlex.split(found.one("release")))
    except ValueError:
        return found.one("release")


def _model(found: Lines, properties: dict[str, str], sysctl: dict[str, str]) -> str:
    model = properties.get("ro.product.model", "")
    maker = properties.get("ro.product.manufacturer", "")
    if model:
        return model if model.lower().startswith(maker.lower()) else f"{maker} {model}"
    return found.one("board") or sysctl.get("hw.model", "")


def _chip(properties: dict[str, str], found: Lines) -> str:
    chip = f"{properties.get('ro.soc.manufacturer', '')} {properties.get('ro.soc.model', '')}".strip()
    hardware = [line.partition(":")[2].strip() for line in found.all("cpuinfo") if line.startswith("Hardware")]
    return chip or next(iter(hardware), "") or found.one("jetson")


def _clusters(found: Lines, names: dict[int, str]) -> tuple[Cluster, ...]:
    tops: dict[int, int | None] = dict.fromkeys(names)
    for row in found.all("top"):
        cpu, _, top = row.partition(" ")
        khz = found.plausible("highest frequency", top, 1, MAX_KHZ)
        if khz is not None and re.fullmatch(r"[0-9]{1,4}", cpu) and int(cpu) < MAX_CPUS:
            tops[int(cpu)] = int(khz)
    groups: dict[tuple[str, int | None], list[int]] = {}
    for number in sorted(tops):
        groups.setdefault((names.get(number, ""), tops[number]), []).append(number)
    return tuple(Cluster(cpus=tuple(cpus), core=core, max_khz=khz) for (core, khz), cpus in groups.items())


def _tools(found: Lines) -> dict[str, str]:
    pairs = (row.partition(" ")[::2] for row in found.all("tool"))
    return {_word(name): path for name, path in pairs if _word(name) and _path(path)}


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value.strip()


def _whole(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[0-9]{1,18}", word) else None


def _word(text: str) -> str:
    return text if re.fullmatch(r"[\w.+\-]{1,80}", text, flags=re.ASCII) else ""


def _path(text: str) -> str:
    return text if text.startswith("/") and text.isprintable() else ""


def _version(text: str) -> str:
    match = re.search(r"[0-9]+\.[0-9]+[\w.+]{0,20}", text, flags=re.ASCII)
    return match[0] if match else ""
