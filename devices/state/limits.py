"""How much of its processor a device lets a run have: the quota of its control groups, and the CPUs that it may use."""

import re
from collections.abc import Iterator

from edgeopt.core import data_class
from edgeopt.devices.state.probe import Lines

_ROW = re.compile(r"(cpu\.max|cpu\.cfs_quota_us) ([0-9]{1,15}) ([0-9]{1,15})")


@data_class
class CpuQuota:
    """The CPU time that a control group gives to all its processes together."""

    cpus: float
    """In seconds per second: 0.2 is a fifth of one CPU."""
    said: str
    """Its file, with the quota and the period in microseconds: ``cpu.max 20000 100000``."""


def smallest_quota(found: Lines) -> CpuQuota | None:
    """Of the quotas that ``facts.sh`` found, the one that counts; None where there is none."""
    return min(_quotas(found), key=lambda one: one.cpus, default=None)


def _quotas(found: Lines) -> Iterator[CpuQuota]:
    for row in found.all("quota"):
        match = _ROW.fullmatch(row)
        if match and int(match[2]) > 0 < int(match[3]):
            yield CpuQuota(cpus=int(match[2]) / int(match[3]), said=row)
        else:
            found.doubt("quota", row)
