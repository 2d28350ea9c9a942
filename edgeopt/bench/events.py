"""Reads what a run prints, line by line, into a :class:`Launch`. The device may print anything: nothing here trusts it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgeopt.bench.types import Launch, Operator, Window
from edgeopt.devices.base import MAX_OUTPUT_BYTES
from edgeopt.errors import BadAnswer, DeviceError, FellBack, RunFailed

MAX_NS = 10**15
MAX_SAMPLES = 2_000_000
MAX_BYTES = 10**15
MAX_ENTRIES = 5_000
MAX_TEXT = 2_000
_KILLED = 137
"""128 + SIGKILL: what the kernel's out-of-memory killer, Android's low-memory killer and ``kill -9`` leave."""


class Reader:
    """Takes lines as they come; what they said so far is in ``launch``, also after a run that was cut off."""

    def __init__(self, subject: str) -> None:
        self.launch = Launch()
        self.operators: tuple[Operator, ...] = ()
        self.predictions: list[list[dict[str, Any]]] = []
        self.outputs: list[dict[str, Any]] = []
        self.ended = False
        self.failure: DeviceError | None = None
        self._subject = subject
        self._samples: list[int] = []
        self._handlers: dict[str, Callable[[_Fields], None]] = {
            "runtime": self._runtime, "loaded": self._loaded, "first": self._first, "warm": self._warm,
            "samples": self._timed, "sustained": self._sustained, "memory": self._memory, "placement": self._placement,
            "environment": self._environment, "summary": self._summary, "outputs": self._outputs,
            "prediction": self._prediction, "operators": self._operators, "error": self._error, "end": self._end,
        }  # fmt: skip

    def feed(self, line: str) -> None:
        """One line; what is no event is passed over, since runtimes print what they like. An event that makes no sense is kept
        as the failure."""
        if not line.startswith("{") or len(line) > MAX_OUTPUT_BYTES:
            return
        try:
            data = json.loads(line, parse_constant=_refuse_constant)
            handler = self._handlers.get(str(data.get("event"))) if isinstance(data, dict) else None
            if handler is not None:
                handler(_Fields(data))
        except (ValueError, RecursionError) as error:
            self.failure = self.failure or self._senseless(str(error))

    def finish(self, exit_code: int, stderr: str) -> None:
        """Raises what went wrong: what the run said, or what its end says. ``launch`` is complete where this returns."""
        if self.failure is not None:
            raise self.failure
        if self.ended and exit_code == 0:
            return
        last = stderr.strip()[-600:]
        if exit_code == _KILLED:
            raise RunFailed(
                f"{self._subject} was killed on the device",
                why=last or "SIGKILL: most often the system ran out of memory",
                fix="free memory there, use fewer threads, or a smaller model",
            )
        raise RunFailed(
            f"{self._subject} ended with exit code {exit_code} before it was done", why=last or "it said nothing",
            fix="look at lines.jsonl in the run's folder, and try the same artifact on local",
        )  # fmt: skip

    def _runtime(self, fields: "_Fields") -> None:
        self.launch = replace(self.launch, runtime=fields.plain())

    def _loaded(self, fields: "_Fields") -> None:
        self.launch = replace(self.launch, load_ns=fields.ns("ns"), import_ns=fields.maybe_ns("import_ns"))

    def _first(self, fields: "_Fields") -> None:
        self.launch = replace(self.launch, first_ns=fields.ns("ns"))

    def _warm(self, fields: "_Fields") -> None:
        runs, warm = fields.whole("runs", 0, MAX_NS), fields.maybe_flag("stable")
        self.launch = replace(self.launch, warm_up_runs=runs, warm_up_ns=fields.maybe_ns("ns"), warm=warm)

    def _timed(self, fields: "_Fields") -> None:
        self._samples += fields.durations("ns")
        if len(self._samples) > MAX_SAMPLES:
            raise ValueError(f"more than {MAX_SAMPLES} samples")
        self.launch = replace(self.launch, samples_ns=tuple(self._samples))

    def _sustained(self, fields: "_Fields") -> None:
        runs, total = fields.whole("runs", 1, MAX_NS), fields.ns("ns_total")
        window = Window(t_ns=fields.whole("t_ns", 0, MAX_NS), runs=runs, mean_ns=total / runs)
        self.launch = replace(self.launch, sustained=(*self.launch.sustained[:MAX_ENTRIES], window))

    def _memory(self, fields: "_Fields") -> None:
        peak, delta = fields.maybe_whole("peak", MAX_BYTES), fields.maybe_whole("overall", MAX_BYTES)
        self.launch = replace(
            self.launch, peak_bytes=peak, peak_delta_bytes=delta, growth_bytes=fields.maybe_number("growth", MAX_BYTES)
        )

    def _placement(self, fields: "_Fields") -> None:
        self.launch = replace(self.launch, placement=fields.plain())

    def _environment(self, fields: "_Fields") -> None:
        if len(self.launch.environment) < MAX_ENTRIES:
            self.launch = replace(self.launch, environment=(*self.launch.environment, fields.plain()))

    def _summary(self, fields: "_Fields") -> None:
        numbers = {name: value for name, value in fields.plain().items() if isinstance(value, int | float)}
        self.launch = replace(self.launch, summary={name: float(value) for name, value in numbers.items()})

    def _outputs(self, fields: "_Fields") -> None:
        self.outputs = fields.files("files")
        self.launch = replace(
            self.launch, same_outputs=fields.maybe_flag("same_at_end"), not_finite=fields.maybe_whole("not_finite", MAX_NS)
        )

    def _prediction(self, fields: "_Fields") -> None:
        if fields.whole("sample", 0, MAX_NS) != len(self.predictions):
            raise ValueError("predictions are not in their order")
        self.predictions.append(fields.files("outputs"))

    def _operators(self, fields: "_Fields") -> None:
        self.operators = tuple(_operator(_Fields(item)) for item in fields.objects("operators"))

    def _error(self, fields: "_Fields") -> None:
        self.failure = self.failure or _failure(self._subject, fields.text("kind"), fields.text("message"))

    def _end(self, fields: "_Fields") -> None:
        self.ended = True

    def _senseless(self, why: str) -> BadAnswer:
        fix = "check that nothing else on the device writes into the run's output"
        return BadAnswer(f"what {self._subject} printed makes no sense", why=why[:MAX_TEXT], fix=fix)


class MissingRuntime(RunFailed):
    """The device has no runtime for the artifact: its result is skipped, not failed."""


def _failure(subject: str, kind: str, message: str) -> DeviceError:
    if kind == "missing_runtime":
        what = f"the runtime for {subject} is not installed there"
        return MissingRuntime(what, why=message, fix="edgeopt devices setup NAME")
    if kind == "fallback":
        fix = "leave out --fail-on-fallback to see its time"
        return FellBack(f"{subject} did not stay on the accelerator", why=message, fix=fix)
    if kind == "memory":
        return RunFailed(f"{subject} ran out of memory", why=message, fix="use fewer threads, or a smaller model")
    if kind == "load":
        fix = "compare the runtime's version there with the bundle's"
        return RunFailed(f"{subject} could not be loaded", why=message, fix=fix)
    return RunFailed(f"{subject} failed", why=message)


def _operator(fields: "_Fields") -> Operator:
    return Operator(
        kind=fields.text("kind"), name=fields.text("name"), provider=fields.text("provider"),
        mean_ns=fields.number("mean_ns", MAX_NS), runs=fields.whole("runs", 0, MAX_NS),
    )  # fmt: skip


class _Fields:
    """Fields of one event, each checked for type and range; ValueError says which is wrong."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def whole(self, name: str, low: int, high: int) -> int:
        value = self._data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{name} is {str(value)[:80]!r}: a whole number from {low} to {high} expected")
        return value

    def ns(self, name: str) -> int:
        return self.whole(name, 0, MAX_NS)

    def maybe_ns(self, name: str) -> int | None:
        return self.maybe_whole(name, MAX_NS)

    def maybe_whole(self, name: str, high: int) -> int | None:
        return None if self._data.get(name) is None else self.whole(name, 0, high)

    def number(self, name: str, most: float) -> float:
        value = self._data.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or abs(value) > most:
            raise ValueError(f"{name} is {str(value)[:80]!r}: a number expected")
        return float(value)

    def maybe_number(self, name: str, most: float) -> float | None:
        return None if self._data.get(name) is None else self.number(name, most)

    def maybe_flag(self, name: str) -> bool | None:
        value = self._data.get(name)
        return value if isinstance(value, bool) else None

    def text(self, name: str) -> str:
        value = self._data.get(name, "")
        return str(value)[:MAX_TEXT] if value is not None else ""

    def durations(self, name: str) -> list[int]:
        values = self._data.get(name)
        if not isinstance(values, list) or len(values) > MAX_SAMPLES:
            raise ValueError(f"{name} is no list of durations")
        if not all(type(value) is int and 0 < value < MAX_NS for value in values):
            raise ValueError(f"{name} holds a duration that cannot be")
        return values

    def objects(self, name: str) -> list[dict[str, Any]]:
        values = self._data.get(name)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ValueError(f"{name} is no list of objects")
        return values[:MAX_ENTRIES]

    def files(self, name: str) -> list[dict[str, Any]]:
        """Descriptions of output tensors; what they say is checked when they are read."""
        return self.objects(name)

    def plain(self) -> dict[str, Any]:
        """Everything but the event's name, texts and lists cut to a bounded size."""
        return {str(name)[:80]: _bounded(value) for name, value in list(self._data.items())[:200] if name != "event"}


def _bounded(value: Any, depth: int = 3) -> Any:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, list):
        return [_bounded(item, depth - 1) for item in value[:MAX_ENTRIES]] if depth else []
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ENTRIES] if depth else []
        return {str(name)[:200]: _bounded(item, depth - 1) for name, item in items}
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
