"""Which Python starts the runner on a device."""

import sys

from edgeopt.devices.device import Device
from edgeopt.devices.facts import DeviceFacts
from edgeopt.devices.known import LOCAL, DeviceSpec
from edgeopt.devices.setup import installed
from edgeopt.errors import DeviceError

_QUIET = ("PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1")


def find_python(device: Device, spec: DeviceSpec, facts: DeviceFacts) -> tuple[str, ...] | None:
    """The command: the Python of ``devices.toml``; else the runtimes that ``edgeopt devices setup`` put there; else this very
    Python on this computer; else the device's ``python3`` with whatever it has. None where there is none, or where
    ``devices.toml`` says ``python = ""``: then native tools measure."""
    if spec.python is not None:
        return ("env", *_QUIET, spec.python) if spec.python else None
    if (found := installed(device)) is not None:
        return ("env", *_QUIET, f"PYTHONPATH={found.folder}", found.python)
    if spec.url == LOCAL:
        return (sys.executable, "-B")
    return ("env", "PYTHONDONTWRITEBYTECODE=1", facts.python) if facts.python else None


def python_of(device: Device, spec: DeviceSpec, facts: DeviceFacts) -> tuple[str, ...]:
    """As :func:`find_python`; raises DeviceError where there is none."""
    if (found := find_python(device, spec, facts)) is not None:
        return found
    raise DeviceError(
        f"{device.name} has no Python", why="the runner needs Python 3.8 or newer",
        fix="install python3 there, or on Android name LiteRT's benchmark_model under tools in devices.toml",
    )  # fmt: skip
