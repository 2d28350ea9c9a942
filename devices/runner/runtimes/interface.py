"""What a runtime must do: load an artifact, hand over the one call that is timed, and tell what it gave."""

from __future__ import annotations

import importlib
from typing import Any, Callable, Protocol, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor

Call = Callable[[], Any]


class Runtime(Protocol):
    """One artifact in one runtime. Any exception but Failure is the runtime's own, and named by the phase it comes from."""

    name: str

    def __init__(self, job: Job) -> None:
        """Imports the runtime. Raises Failure of kind missing_runtime where it, or its accelerator, is not there."""

    def versions(self) -> dict[str, str]:
        """Of the runtime and of what it stands on, by package name."""

    def load(self) -> None:
        """Loads the artifact: what the ``loaded`` event times."""

    def threads(self) -> int | None:
        """The number of threads as the runtime itself has it now; None where it does not tell."""

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        """The call that computes with ``inputs``: exactly what a bare loop would call, everything else done before."""

    def collect(self, result: Any) -> list[Tensor]:
        """The outputs, from what the last call returned."""

    def placement(self) -> dict[str, Any]:
        """Where the operators run: ``accelerated`` and ``fallback`` counts (None: not told), ``operators`` that fell back."""

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        """Kind, name, provider, runs and mean_ns of each over ``runs`` more calls. Raises Failure where there is no way."""


def module(*names: str) -> tuple[Any, str]:
    """The first of the modules ``names`` that can be imported, and its name. Raises Failure of kind missing_runtime."""
    problems = []
    for name in names:
        try:
            return importlib.import_module(name), name
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise Failure("missing_runtime", f"no runtime for this format here ({'; '.join(problems)})")


def package_version(name: str) -> str:
    """The version of the installed distribution ``name``; empty where it was only unpacked somewhere."""
    try:
        from importlib.metadata import PackageNotFoundError, version

        return version(name)
    except PackageNotFoundError:
        return ""


def by_name(inputs: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """``inputs`` in the order of the artifact's ``names``. A single input needs no name. Raises Failure of kind bad_job."""
    if len(inputs) == len(names) == 1:
        return list(inputs)
    given = {tensor.name: tensor for tensor in inputs}
    if sorted(given) != sorted(names) or len(given) != len(inputs):
        raise Failure("bad_job", f"inputs {sorted(given)} were given, the artifact takes {sorted(names)}")
    return [given[name] for name in names]


def placed(accelerator: str, accelerated: int | None, fallback: int | None, operators: Any = (), **more: Any) -> dict[str, Any]:
    """A ``placement`` as the event has it; ``operators`` counts, by kind, those that fell back to the CPU."""
    return dict(more, accelerator=accelerator, accelerated=accelerated, fallback=fallback, operators=dict(operators))
