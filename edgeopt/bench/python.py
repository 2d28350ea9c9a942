"""Which Python starts the runner on a device."""

import re
import sys

from edgeopt.devices.devices_toml import LOCAL, DeviceSpec
from edgeopt.devices.session.device import Device
from edgeopt.devices.setup.install import installed
from edgeopt.devices.setup.pythons import OLDEST
from edgeopt.devices.state.facts import DeviceFacts
from edgeopt.devices.variables import with_variables
from edgeopt.errors import DeviceError

_QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def find_python(device: Device, spec: DeviceSpec, facts: DeviceFacts) -> tuple[str, ...] | None:
    """The command: the Python of ``devices.toml``, with the runtimes that ``edgeopt devices setup`` put there for it, or those
    that it has itself; else the Python that they were put there for; else this very Python on this computer; else the device's
    ``python3`` with whatever it has. None where there is none, or an old one, or where ``devices.toml`` says ``python = ""``:
    then native tools measure."""
    if spec.python == "":
        return None
    found = installed(device)
    if spec.python and (found is None or found.named != spec.python):
        return with_variables(_QUIET, (spec.python,))
    if found is not None:
        return with_variables({**_QUIET, "PYTHONPATH": found.folder}, (spec.python or found.python,))
    if spec.url == LOCAL:
        return (sys.executable, "-B")
    if not facts.python or too_old(facts):
        return None
    return with_variables({"PYTHONDONTWRITEBYTECODE": "1"}, (facts.python,))


def too_old(facts: DeviceFacts) -> str:
    """Why the device's ``python3`` cannot run the runner; an empty text where it can, or is not there."""
    version = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", facts.python_version)
    if not facts.python or not version or (int(version[1]), int(version[2])) >= OLDEST:
        return ""
    return f"{facts.python} is Python {facts.python_version}, and the runner needs {OLDEST[0]}.{OLDEST[1]} or newer"


def python_of(device: Device, spec: DeviceSpec, facts: DeviceFacts) -> tuple[str, ...]:
    """As :func:`find_python`; raises DeviceError where there is none."""
    if (found := find_python(device, spec, facts)) is not None:
        return found
    old = too_old(facts)
    raise DeviceError(
        f"{device.name} has no Python{' that can be used' if old else ''}", why=old or "the runner needs Python 3.8 or newer",
        fix="install python3 there, or on Android name LiteRT's benchmark_model under tools in devices.toml",
    )  # fmt: skip
