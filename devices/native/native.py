"""Measures where a device has no Python: with LiteRT's ``benchmark_model`` and ONNX Runtime's ``onnxruntime_perf_test``.

They give the events of the Python runner's JSON lines, as far as they can: ``benchmark_model`` prints a summary instead of its
samples (event ``summary``), and no tool gives its outputs.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgeopt.devices.native import benchmark_model, perf_test
from edgeopt.devices.native.job import TOOLS, WHERE, NativeFormat, NativeJob, NativeSession
from edgeopt.devices.native.output import Event
from edgeopt.errors import RunFailed

_MEASURES: Mapping[NativeFormat, Callable[[NativeSession, NativeJob], Iterator[Event]]] = {
    "tflite": benchmark_model.measure,
    "onnx": perf_test.measure,
}


def measure(session: NativeSession, job: NativeJob) -> Iterator[Event]:
    """Runs the tool and gives the runner's events; the last one is ``end``, or ``error`` with its kind and message.

    Raises RunFailed for an accelerator that the tool does not have, and what ``session`` raises.
    """
    for event in _MEASURES[job.format](session, job):
        yield event
        if event["event"] == "error":
            return
    yield {"event": "end"}


def tool_for(
    form: str,
    machine: str,
    found: Mapping[str, str],
    configured: Mapping[str, Path],
    push: Callable[[Path], str],
    python: str = "",
) -> str:
    """The path on the device of the tool for ``form``: the user's own, pushed, or one that ``found`` there.

    ``python``: why the device's Python cannot be used, where it has one.

    Raises RunFailed that says where to get it, and how to name it.
    """
    name = {**TOOLS}.get(form)  # type: ignore[call-overload]  # any text may be asked for
    if name is None:
        raise RunFailed(
            f"{form} needs Python on the device",
            why=f"native tools are known for {' and '.join(TOOLS)} only",
            fix="edgeopt devices setup, for a device that has Python",
        )
    if name in configured:
        path = configured[name]
        if not path.is_file():
            raise RunFailed(f"{path} is not there", why=f"devices.toml names it as {name}", fix=f"get {WHERE[name]}")
        return push(path)
    if name in found:
        return found[name]
    raise RunFailed(
        f"the device has neither {'a Python that can be used' if python else 'Python'} nor {name}",
        why=(f"{python}; " if python else "")
        + f"it is not in PATH, /data/local/tmp or edgeopt's folder tools there (a device of type {machine or 'unknown'})",
        fix=("edgeopt devices setup NAME, where a newer Python is there; else " if python else "")
        + f'get {WHERE[name]}; then write  tools = {{ {name} = "/path/on/this/computer" }}  into devices.toml',
    )
