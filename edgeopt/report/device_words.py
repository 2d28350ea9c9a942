"""A device in few words: what it is, its processor, its system."""

from typing import TYPE_CHECKING

from edgeopt.report.text import cut, one_line, size

if TYPE_CHECKING:
    from edgeopt.devices.state.facts import Cluster, DeviceFacts

_MOST_CLUSTERS = 4
_LONGEST = 60


def described(facts: "DeviceFacts") -> str:
    """``Raspberry Pi 5 Model B, 4x Cortex-A76, Debian GNU/Linux 12 (bookworm)``; what it does not say is left out."""
    parts = (short(facts.model), short(facts.cpu), short(facts.system), *map(short, facts.limited))
    return ", ".join(part for part in parts if part)


def clusters(facts: "DeviceFacts") -> list[str]:
    """Its cores by kind: ``4x Cortex-A55 1.80 GHz``; the processor alone where it does not say more."""
    named = [_cluster(one) for one in facts.clusters[:_MOST_CLUSTERS]]
    limited = [short(one) for one in facts.limited]
    more = len(facts.clusters) - _MOST_CLUSTERS
    if named:
        return named + ([f"and {more} kinds more"] if more > 0 else []) + limited
    alone = short(facts.cpu) or (f"{facts.cores} cores" if facts.cores else "")
    return [*([alone] if alone else []), *limited]


def system(facts: "DeviceFacts") -> str:
    """``Debian GNU/Linux 12 (bookworm), aarch64, 8.1 GB``."""
    memory = size(facts.memory_bytes) if facts.memory_bytes else ""
    name = short(facts.system) or (facts.kind if facts.kind != "unknown" else "")
    return ", ".join(part for part in (name, short(facts.machine), memory) if part)


def short(text: str) -> str:
    """One line of at most 60 characters: a device may say anything of itself."""
    return cut(one_line(text), _LONGEST)


def _cluster(cluster: "Cluster") -> str:
    core = short(cluster.core) or "CPU"
    clock = f" {cluster.max_khz / 1e6:.2f} GHz" if cluster.max_khz else ""
    return f"{len(cluster.cpus)}x {core}{clock}"
