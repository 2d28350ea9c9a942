"""Every known device as it is now: reachable or not, what it is, what is installed there. All are asked at the same time."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import field, replace

from edgeopt import registry
from edgeopt.bench.python import find_python, python_of
from edgeopt.core import data_class
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.session import failed
from edgeopt.devices.session.watched import watched
from edgeopt.devices.state.environment import Environment, read_environment
from edgeopt.devices.state.facts import DeviceFacts, read_facts
from edgeopt.devices.transport import Ask, Transport, asked_by, text
from edgeopt.errors import DeviceTimeout, EdgeoptError

TIMEOUT_S = 60.0
_PYTHON_S = 30.0
_MOST_BYTES = 64 * 1024
_RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "coremltools", "torch", "tensorrt", "numpy")
_VERSIONS = """
import sys
try:
    from importlib.metadata import PackageNotFoundError, version
except ImportError:
    sys.exit("%s is Python %d.%d, and 3.8 or newer is needed" % ((sys.executable,) + tuple(sys.version_info[:2])))
for name in sys.argv[1:]:
    try:
        print("version", name, version(name))
    except PackageNotFoundError:
        pass
"""


@data_class
class DeviceRow:
    """One device. ``facts`` None: it could not be reached, the reason is ``error``; what was learned before is kept."""

    spec: DeviceSpec
    facts: DeviceFacts | None = None
    environment: Environment | None = None
    installed: dict[str, str] = field(default_factory=dict)
    """Versions of the runtimes that a benchmark would use, by distribution; native tools by name, with their path."""
    error: str = ""

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The zone with the highest temperature now, in degrees Celsius."""
        zones = self.environment.temperatures if self.environment else {}
        return max(zones.items(), key=lambda zone: zone[1], default=None)


def inventory(specs: Sequence[DeviceSpec], ask: Ask, timeout: float = TIMEOUT_S) -> list[DeviceRow]:
    """A row for each of ``specs``, in their order. Whatever a device does is in its row; the time in which the user is asked
    for a secret (by one device at a time) does not count towards ``timeout`` seconds."""
    questions = _Questions(ask)
    asking = [_Asking(spec, questions) for spec in specs]
    threads = [threading.Thread(target=one.run, name=f"ask {one.row.spec.name}", daemon=True) for one in asking]
    start = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and time.monotonic() - start - questions.spent_s() < timeout:
                thread.join(0.05)
        return [one.given_up(timeout) if thread.is_alive() else one.row for one, thread in zip(asking, threads, strict=True)]
    finally:
        for one in asking:
            one.close()


class _Questions:
    """Asks the user one question at a time, and knows how long the user has taken."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._one = ask, threading.Lock()
        self._spent_s, self._since = 0.0, 0.0

    def __call__(self, question: str) -> str:
        with self._one:
            self._since = time.monotonic()
            try:
                return self._ask(question)
            finally:
                self._spent_s, self._since = self.spent_s(), 0.0

    def spent_s(self) -> float:
        """Seconds, with those of the question that is open now."""
        since = self._since
        return self._spent_s + (time.monotonic() - since if since else 0.0)


class _Asking:
    """One device, asked in a thread of its own; ``row`` grows as it answers."""

    def __init__(self, spec: DeviceSpec, ask: Ask) -> None:
        self.row = DeviceRow(spec=spec)
        self._ask = ask
        self._transport: Transport | None = None
        self._closed = False

    def run(self) -> None:
        """Asks it everything; never raises."""
        try:
            self._look()
        except EdgeoptError as error:
            self.row = replace(self.row, error=error.message())
        except Exception as error:  # a kind of device may be another package's; its faults are not the other devices'
            self.row = replace(self.row, error=f"{self.row.spec.name}: {type(error).__name__}: {error}")
        finally:
            self.close()

    def given_up(self, timeout: float) -> DeviceRow:
        """The row of a device that has not answered in time."""
        known, name = self.row, self.row.spec.name
        what = f"{name} did not {'say everything' if known.facts else 'answer'} within {timeout:.0f} s"
        error = DeviceTimeout(what, fix="check that it is awake and its network is up, then try again")
        return replace(known, error=error.message())

    def close(self) -> None:
        """Ends the connection, also from another thread."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def _look(self) -> None:
        spec = self.row.spec
        self._transport = transport = registry.transport(spec.url, asked_by(spec.name, self._ask))
        if self._closed:  # it came too late, when nobody waits any more
            return
        device = Device.connect(spec.name, transport, spec.root, make=False)
        self.row = replace(self.row, facts=(facts := read_facts(transport, device.root)))
        self.row = replace(self.row, environment=read_environment(transport, device.root))
        self.row = replace(self.row, installed=_installed(device, spec, facts))


def _installed(device: Device, spec: DeviceSpec, facts: DeviceFacts) -> dict[str, str]:
    """What the Python that a benchmark would start has; where there is none, the native tools."""
    tools = dict(facts.tools) | spec.tools
    python = find_python(device, spec, facts) if tools else python_of(device, spec, facts)
    if python is None:
        return tools
    command = watched((*python, "-c", _VERSIONS, *_RUNTIMES), _PYTHON_S)
    done = device.transport.run(command, timeout_s=_PYTHON_S, limit=_MOST_BYTES)
    if done.exit_code != 0:
        raise failed(device.name, "say which runtimes it has", done)
    found = {}
    for line in text(done.stdout).splitlines():
        match = re.fullmatch(r"version ([a-z0-9-]{1,40}) ([\w.+!-]{1,60})", line.strip(), flags=re.ASCII)
        if match and match[1] in _RUNTIMES:
            found[match[1]] = match[2]
    return found | tools
