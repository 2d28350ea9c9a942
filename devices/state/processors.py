"""Names of processor cores, as /proc/cpuinfo gives them: by model name (x86), or by implementer and part (ARM).

Parts of ARM's own cores: the Main ID Registers in ARM's reference manuals, as collected in util-linux' sys-utils/lscpu-arm.c;
of others' cores, the same file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

_IMPLEMENTERS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x50: "APM",
    0x51: "Qualcomm", 0x53: "Samsung", 0x56: "Marvell", 0x61: "Apple", 0x6D: "Microsoft", 0x70: "Phytium", 0xC0: "Ampere",
}  # fmt: skip
_PARTS = {
    (0x41, 0xB76): "ARM1176", (0x41, 0xC05): "Cortex-A5", (0x41, 0xC07): "Cortex-A7", (0x41, 0xC08): "Cortex-A8",
    (0x41, 0xC09): "Cortex-A9", (0x41, 0xC0D): "Cortex-A17", (0x41, 0xC0E): "Cortex-A17", (0x41, 0xC0F): "Cortex-A15",
    (0x41, 0xD01): "Cortex-A32", (0x41, 0xD02): "Cortex-A34", (0x41, 0xD03): "Cortex-A53", (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55", (0x41, 0xD06): "Cortex-A65", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73", (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD0E): "Cortex-A76AE", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD43): "Cortex-A65AE", (0x41, 0xD44): "Cortex-X1", (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2", (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4A): "Neoverse-E1",
    (0x41, 0xD4B): "Cortex-A78C", (0x41, 0xD4C): "Cortex-X1C", (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720", (0x41, 0xD82): "Cortex-X4",
    (0x41, 0xD83): "Neoverse-V3AE", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD85): "Cortex-X925", (0x41, 0xD87): "Cortex-A725",
    (0x41, 0xD88): "Cortex-A520AE", (0x41, 0xD89): "Cortex-A720AE", (0x41, 0xD8A): "C1-Nano", (0x41, 0xD8B): "C1-Pro",
    (0x41, 0xD8C): "C1-Ultra", (0x41, 0xD8E): "Neoverse-N3", (0x41, 0xD8F): "Cortex-A320", (0x41, 0xD90): "C1-Premium",
    (0x4E, 0x003): "Denver 2", (0x4E, 0x004): "Carmel",
    (0x51, 0x800): "Kryo Gold (Cortex-A73)", (0x51, 0x801): "Kryo Silver (Cortex-A53)",
    (0x51, 0x802): "Kryo Gold (Cortex-A75)", (0x51, 0x803): "Kryo Silver (Cortex-A55)",
    (0x51, 0x804): "Kryo Gold (Cortex-A76)", (0x51, 0x805): "Kryo Silver (Cortex-A55)", (0x51, 0x001): "Oryon",
    (0x53, 0x001): "Exynos M1", (0x53, 0x002): "Exynos M3", (0x53, 0x003): "Exynos M4", (0x53, 0x004): "Exynos M5",
}  # fmt: skip
_MOST_CPUS = 1024


def part_name(implementer: int, part: int) -> str:
    """Such as ``Cortex-A76``; an unknown one by its numbers."""
    known = _PARTS.get((implementer, part))
    return known or f"{_IMPLEMENTERS.get(implementer, f'implementer {implementer:#x}')} part {part:#x}"


def cores(cpuinfo: Iterable[str]) -> dict[int, str]:
    """The name of each core by its number, from lines of /proc/cpuinfo; empty names where they are not given."""
    names: dict[int, str] = {}
    current, implementer = -1, 0
    for line in cpuinfo:
        key, _, value = (piece.strip() for piece in line.partition(":"))
        if key == "processor" and re.fullmatch(r"[0-9]{1,4}", value) and int(value) < _MOST_CPUS:
            current = int(value)
            names[current] = ""
        elif current < 0:
            continue
        elif key == "model name":
            names[current] = re.sub(r"\s+", " ", value)
        elif key == "CPU implementer":
            implementer = _hexadecimal(value)
        elif key == "CPU part":  # surer than a model name, which only says "ARMv8 Processor" on ARM
            names[current] = part_name(implementer, _hexadecimal(value))
    return names


def summary(names: Mapping[int, str]) -> str:
    """Such as ``4x Cortex-A55 + 4x Cortex-A76``, in the order of the cores' numbers."""
    counts = Counter(names[number] for number in sorted(names) if names[number])
    return " + ".join(f"{count}x {name}" for name, count in counts.items())


def _hexadecimal(value: str) -> int:
    return int(value, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,4}", value) else 0
