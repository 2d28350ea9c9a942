"""Reads what a run prints, line by line, into a :class:`Launch`. The device may print anything: nothing here trusts it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgeopt.bench.types import Launch, Operator, Window
from edgeopt.devices.session.session import make_room
from edgeopt.devices.transport import MAX_OUTPUT_BYTES
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, FellBack, RunFailed

MAX_NS = 10**15
MAX_SAMPLES = 2_000_000
MAX_WINDOWS = 100_000
"""Of a second each."""
MAX_BYTES = 10**15
MAX_ENTRIES = 5_000
MAX_TEXT = 2_000
_KILLED = 137
"""128 + SIGKILL: what the kernel's out-of-memory killer, Android's low-memory killer and ``kill -9`` leave."""
_SIGNALS = 65
_LARGEST = 2.0**63
_PYTHON = 'python = "/usr/bin/python3.11"'


class Reader:
    """Takes lines, or events, as they come; what they said so far is in ``launch``, also after a run that was cut off.

    ``subject``: what runs, and where; ``device``: the name by which the user knows that.
    """

    def __init__(self, subject: str, device: str) -> None:
        self._launch = Launch()
        self.operators: tuple[Operator, ...] = ()
        self.predictions: list[list[dict[str, Any]]] = []
        self.outputs: list[dict[str, Any]] = []
        self.ended = False
        self.failure: DeviceError | None = None
        self._subject, self._device = subject, device
        self._samples: list[int] = []
        self._windows: list[Window] = []
        self._handlers: dict[str, Callable[[_Fields], None]] = {
            "runtime": self._runtime, "loaded": self._loaded, "first": self._first, "warm": self._warm,
            "samples": self._timed, "sustained": self._sustained, "memory": self._memory, "placement": self._placement,
            "environment": self._environment, "summary": self._summary, "outputs": self._outputs,
            "prediction": self._prediction, "operators": self._operators, "error": self._error, "end": self._end,
        }  # fmt: skip

    @property
    def launch(self) -> Launch:
        """What was measured so far."""
        return replace(self._launch, samples_ns=tuple(self._samples), sustained=tuple(self._windows))

    def feed(self, line: str) -> None:
        """One line; what is no event is passed over, since runtimes print what they like."""
        if not line.startswith("{") or len(line) > MAX_OUTPUT_BYTES:
            return
        try:
            data = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self.failure = self.failure or self._senseless(str(error))
        else:
            if isinstance(data, dict):
                self.take(data)

    def take(self, event: dict[str, Any]) -> None:
        """One event. What makes no sense in it is kept as the failure; after a failure nothing is taken any more."""
        name = event.get("event")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None or self.failure is not None:
            return
        try:
            handler(_Fields(event))
        except (ValueError, OverflowError, RecursionError) as error:
            self.failure = self._senseless(str(error))

    def finish(self, exit_code: int, stderr: str) -> None:
        """Raises what went wrong: what the run said, or what its end says. ``launch`` is complete where this returns."""
        if self.failure is not None:
            raise self.failure
        if self.ended and exit_code == 0:
            return
        last = stderr.strip()[-600:]
        look = "look at lines.jsonl in the run's folder, and try the same artifact on local"
        if exit_code == _KILLED:
            raise RunFailed(
                f"{self._subject} was killed on the device",
                why="SIGKILL: most often the system ran out of memory" + (f"; it said: {last}" if last else ""),
                fix="free memory there, use fewer threads, or a smaller model",
            )
        if 128 < exit_code < 128 + _SIGNALS:
            what = f"{self._subject} crashed on the device with signal {exit_code - 128}"
            raise RunFailed(what, why=last or "it said nothing", fix=look)
        what = f"{self._subject} ended with exit code {exit_code} before it was done"
        raise RunFailed(what, why=last or "it said nothing", fix=look)

    def _runtime(self, fields: "_Fields") -> None:
        self._launch = replace(self._launch, runtime=fields.plain())

    def _loaded(self, fields: "_Fields") -> None:
        self._launch = replace(self._launch, load_ns=fields.maybe_ns("ns"), import_ns=fields.maybe_ns("import_ns"))

    def _first(self, fields: "_Fields") -> None:
        self._launch = replace(self._launch, first_ns=fields.ns("ns"))

    def _warm(self, fields: "_Fields") -> None:
        runs, warm = fields.whole("runs", 0, MAX_NS), fields.maybe_flag("stable")
        self._launch = replace(self._launch, warm_up_runs=runs, warm_up_ns=fields.maybe_ns("ns"), warm=warm)

    def _timed(self, fields: "_Fields") -> None:
        found = fields.durations("ns")
        if len(self._samples) + len(found) > MAX_SAMPLES:
            raise ValueError(f"more than {MAX_SAMPLES} samples")
        self._samples += found

    def _sustained(self, fields: "_Fields") -> None:
        runs, total = fields.whole("runs", 1, MAX_NS), fields.ns("ns_total")
        window = Window(t_ns=fields.whole("t_ns", 0, MAX_NS), runs=runs, mean_ns=total / runs)
        if len(self._windows) >= MAX_WINDOWS:
            raise ValueError(f"more than {MAX_WINDOWS} windows of the sustained phase")
        self._windows.append(window)

    def _memory(self, fields: "_Fields") -> None:
        peak, delta = fields.maybe_whole("peak", MAX_BYTES), fields.maybe_whole("overall", MAX_BYTES)
        self._launch = replace(
            self._launch, peak_bytes=peak, peak_delta_bytes=delta, growth_bytes=fields.maybe_number("growth", MAX_BYTES)
        )

    def _placement(self, fields: "_Fields") -> None:
        self._launch = replace(self._launch, placement=fields.plain())

    def _environment(self, fields: "_Fields") -> None:
        if len(self._launch.environment) < MAX_ENTRIES:
            self._launch = replace(self._launch, environment=(*self._launch.environment, fields.plain()))

    def _summary(self, fields: "_Fields") -> None:
        self._launch = replace(self._launch, summary=fields.numbers(MAX_NS))

    def _outputs(self, fields: "_Fields") -> None:
        self.outputs = fields.files("files")
        self._launch = replace(
            self._launch, same_outputs=fields.maybe_flag("same_at_end"), not_finite=fields.maybe_whole("not_finite", MAX_NS)
        )

    def _prediction(self, fields: "_Fields") -> None:
        if fields.whole("sample", 0, MAX_NS) != len(self.predictions):
            raise ValueError("predictions are not in their order")
        self.predictions.append(fields.files("outputs"))

    def _operators(self, fields: "_Fields") -> None:
        self.operators = tuple(_operator(_Fields(item)) for item in fields.objects("operators"))

    def _error(self, fields: "_Fields") -> None:
        self.failure = self.failure or _failure(self._subject, self._device, fields.text("kind"), fields.text("message"))

    def _end(self, fields: "_Fields") -> None:
        self.ended = True

    def _senseless(self, why: str) -> BadAnswer:
        fix = "check that nothing else on the device writes into the run's output"
        return BadAnswer(f"what {self._subject} printed makes no sense", why=_clean(why, MAX_TEXT), fix=fix)


class MissingRuntime(RunFailed):
    """The device has no runtime for the artifact: its result is skipped, not failed."""


def _failure(subject: str, device: str, kind: str, message: str) -> DeviceError:
    if kind in ("disk_full", "read_only"):
        return _unwritable(device, kind, message)
    if kind == "bad_output":
        fix = "look at lines.jsonl in the run's folder; perhaps this version of the tool is not known yet"
        return BadAnswer(f"what {subject} printed makes no sense", why=message, fix=fix)
    if kind == "missing_runtime":
        what = "its runtime is not installed there"  # the same words for every artifact: they are told once
        return MissingRuntime(
            what, why=message, fix="edgeopt devices setup NAME; a native tool must be for that system and processor"
        )
    if kind == "no_accelerator":
        fix = "leave out --accelerator; or name in devices.toml a python whose runtime has it, or the delegate"
        return MissingRuntime("its runtime there does not have the accelerator", why=message, fix=fix)
    if kind == "old_python":
        fix = f"install a newer Python there, then: edgeopt devices setup NAME; or name it in devices.toml: {_PYTHON}"
        return RunFailed(f"the Python for {subject} is too old", why=message, fix=fix)
    if kind == "delegate":
        fix = "name it as delegate of that device in devices.toml: its path there, built for that system and processor"
        return RunFailed(f"{subject} cannot use the delegate", why=message, fix=fix)
    if kind == "fallback":
        fix = "leave out --fail-on-fallback to see its time"
        return FellBack(f"{subject} did not stay on the accelerator", why=message, fix=fix)
    if kind == "memory":
        return RunFailed(f"{subject} ran out of memory", why=message, fix="use fewer threads, or a smaller model")
    if kind == "load":
        fix = "compare the runtime's version there with the bundle's"
        return RunFailed(f"{subject} could not be loaded", why=message, fix=fix)
    return RunFailed(f"{subject} failed", why=message, fix="try the same artifact on local")


def _unwritable(device: str, kind: str, message: str) -> DeviceError:
    if kind == "disk_full":
        return DeviceFull(f"{device} has no room for what a run writes", why=message, fix=make_room(device))
    fix = "look at its disk there: it may only be read, as after an error of the disk or of its file system"
    return DeviceError(f"edgeopt's folder on {device} cannot be written", why=message, fix=fix)


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
        if isinstance(value, int | float) and _is_number(value, most):
            return float(value)
        raise ValueError(f"{name} is {str(value)[:80]!r}: a number expected")

    def numbers(self, most: float) -> dict[str, float]:
        """Every number of the event by its name; ValueError for one that cannot be."""
        return {name: self.number(name, most) for name, value in self._data.items() if type(value) in (int, float)}

    def maybe_number(self, name: str, most: float) -> float | None:
        return None if self._data.get(name) is None else self.number(name, most)

    def maybe_flag(self, name: str) -> bool | None:
        value = self._data.get(name)
        return value if isinstance(value, bool) else None

    def text(self, name: str) -> str:
        value = self._data.get(name)
        return _clean(str(value), MAX_TEXT) if value is not None else ""

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
        return {_clean(name, 80): _bounded(value) for name, value in list(self._data.items())[:200] if name != "event"}


def _is_number(value: Any, most: float) -> bool:
    """Whether it is one, and its size at most ``most``: not NaN, and no true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _bounded(value: Any, depth: int = 3) -> Any:
    """``value`` as JSON can hold it and bring it back: a number beyond all measure becomes None."""
    if isinstance(value, str):
        return _clean(value, MAX_TEXT)
    if isinstance(value, list):
        return [_bounded(item, depth - 1) for item in value[:MAX_ENTRIES]] if depth else []
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ENTRIES] if depth else []
        return {_clean(name, 200): _bounded(item, depth - 1) for name, item in items}
    return value if value is None or isinstance(value, bool) or _is_number(value, _LARGEST) else None


def _clean(text: str, length: int) -> str:
    """The beginning of ``text``, with escapes in place of what no UTF-8 file can hold (a lone half of a pair)."""
    return text[:length].encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
