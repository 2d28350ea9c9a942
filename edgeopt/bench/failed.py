"""What a benchmark recorded of a failure, as an error again: for who needs the time and cannot go on without it."""

from edgeopt import errors
from edgeopt.bench.types import BenchResult, DeviceRun
from edgeopt.errors import DeviceError, RunFailed


def cause_of(message: str) -> str:
    """A recorded message in one line, without its next step."""
    lines = [line.strip() for line in message.splitlines()]
    return ": ".join(line.removeprefix("cause: ") for line in lines if not line.startswith("next step: "))


def device_error(what: str, run: DeviceRun, result: BenchResult | None, fix: str) -> DeviceError:
    """The failure of ``result``, or of the whole ``run``, of the class that it had, with other words for what and next step."""
    name, reason = (run.error, run.reason) if run.error or result is None else (result.error, result.reason)
    kind: type[DeviceError] = getattr(errors, name, RunFailed)
    return kind(what, why=cause_of(reason), fix=fix)
