"""Of what kind this computer's CPU is: whether what is timed here says something of a target's."""

import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

Processor = Literal["any", "x86-64", "x86-64-avx2", "x86-64-vnni", "aarch64"]
"""``x86-64-vnni``: with dot products of 8-bit integers (VNNI or AMX). ``x86-64-avx2``: with AVX2 and without these."""
_MACHINES = {"amd64": "x86-64", "x86_64": "x86-64", "aarch64": "aarch64", "arm64": "aarch64"}
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def is_here(kind: Processor | None) -> bool:
    """Whether this computer's CPU is of ``kind``; no CPU is of None, and where instructions are not known none is of theirs."""
    return fits(kind, platform.machine(), flags())


def fits(kind: Processor | None, machine: str, features: Collection[str]) -> bool:
    """Whether a CPU is of ``kind``, by its machine as ``platform`` names it and its features as :func:`flags` gives them."""
    family = _MACHINES.get(machine.lower(), machine)
    if kind is None or kind == "any":
        return kind == "any"
    if kind in ("x86-64", "aarch64"):
        return family == kind
    vnni = bool(_VNNI.intersection(features))
    return family == "x86-64" and (vnni if kind == "x86-64-vnni" else "avx2" in features and not vnni)


def flags() -> set[str]:
    """Instructions of this CPU as /proc/cpuinfo spells them; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return {flag for line in lines for flag in line.split()}
