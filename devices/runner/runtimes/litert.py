"""LiteRT (ai-edge-litert), or its forerunner tflite-runtime: the interpreter, with XNNPACK or with a delegate of the user's."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Sequence

from ..failures import Failure, failure_from
from ..job import Delegate, Job
from ..tensors import Tensor
from .arrays import to_array, to_tensors
from .interface import Call, by_name, module, package_version, placed

_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")
_PACKAGES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime", "tensorflow": "tensorflow"}
_WITHOUT_DELEGATE = ("cpu", "xnnpack")
_DELEGATE = "DELEGATE"


class LiteRt:
    """One interpreter: XNNPACK is its own default on the CPU; another accelerator needs a delegate's library in the job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._module, name = module(*_MODULES)
        self.name = _PACKAGES[name.split(".")[0]]
        if job.accelerator == "delegate" and job.delegate is None:
            raise Failure("delegate", "the shared library of none was named for this device")
        if job.accelerator not in _WITHOUT_DELEGATE and job.delegate is None:
            message = f"accelerator {job.accelerator} needs a LiteRT delegate: 'delegate' is that of devices.toml"
            raise Failure("no_accelerator", message)
        self._interpreter: Any = None
        self._nodes_before: int | None = None
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []

    def versions(self) -> dict[str, str]:
        return {self.name: package_version(self.name), "numpy": package_version("numpy")}

    def load(self) -> None:
        delegate = self._job.delegate
        delegates = [] if delegate is None else [self._loaded(delegate)]
        self._interpreter = self._module.Interpreter(
            model_path=self._job.artifact, num_threads=self._job.threads, experimental_delegates=delegates
        )
        # What the user's delegate takes, it has now; allocate_tensors lets XNNPACK, on the CPU, take some of what is left.
        self._nodes_before = len(self._nodes()) if delegate else None
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        placement = self.placement()
        if self._job.fail_on_fallback and delegate is not None and placement["fallback"]:
            raise Failure("fallback", f"{placement['fallback']} operators are left to the CPU: {placement['operators']}")

    def _loaded(self, delegate: Delegate) -> Any:
        """The delegate in the library; its own words where it refuses, and the loader's where that does."""
        if os.sep in delegate.path and not os.path.exists(delegate.path):
            raise Failure("delegate", f"there is no {delegate.path}")
        try:
            return self._module.load_delegate(delegate.path, delegate.options)
        except Exception as error:  # OSError, AttributeError (it is another kind of library), ValueError
            raise failure_from(error, "delegate") from error

    def threads(self) -> int | None:
        return None

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        for detail, tensor in zip(self._inputs, by_name(inputs, self._input_names())):
            array = to_array(tensor)
            if array.shape != tuple(detail["shape"]):
                self._interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(detail["index"], array)
        call: Call = self._interpreter.invoke
        return call

    def _input_names(self) -> list[str]:
        """In the file's order. A signature has the names that the model's author gave; tensors may have a converter's."""
        signatures = self._interpreter.get_signature_list()
        tensors = [str(detail["name"]) for detail in self._inputs]
        if len(signatures) != 1:
            return tensors
        runner = self._interpreter.get_signature_runner()
        names = {int(detail["index"]): str(name) for name, detail in runner.get_input_details().items()}
        return [names.get(int(detail["index"]), tensor) for detail, tensor in zip(self._inputs, tensors)]

    def collect(self, result: Any) -> list[Tensor]:
        return to_tensors([(str(detail["name"]), self._interpreter.get_tensor(detail["index"])) for detail in self._outputs])

    def placement(self) -> dict[str, Any]:
        nodes = self._nodes()
        return (
            from_nodes(nodes, self._job.accelerator, self._nodes_before) if nodes else placed(self._job.accelerator, None, None)
        )

    def _nodes(self) -> list[dict[str, Any]]:
        """The interpreter's nodes, those of delegates included; none where this version does not tell."""
        details = getattr(self._interpreter, "_get_ops_details", None)
        return list(details()) if details else []

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        raise Failure("missing_runtime", f"{self.name} has no times of operators in Python; its benchmark_model has")


def from_nodes(nodes: Sequence[dict[str, Any]], accelerator: str, before: int | None = None) -> dict[str, Any]:
    """The placement that an interpreter's nodes show.

    A delegate's node stands behind the nodes that it took over, which stay in the list: they are those between its inputs and
    its outputs. Those that nothing took over are the fallback, also for the CPU, where XNNPACK is the delegate. Of delegates,
    only those among the first ``before`` nodes count: later ones are XNNPACK's, beside a delegate of the user's.
    """
    own = [node for node in nodes if node["op_name"] != _DELEGATE]
    producers = {int(output): node for node in own for output in node["outputs"]}
    delegates = [node for node in nodes[:before] if node["op_name"] == _DELEGATE]
    taken: set[int] = set()
    for delegate in delegates:
        borders = {int(tensor) for tensor in delegate["inputs"]}
        open_ends = [int(tensor) for tensor in delegate["outputs"]]
        while open_ends:
            node = producers.get(open_ends.pop())
            if node is None or node["index"] in taken:
                continue
            taken.add(node["index"])
            open_ends.extend(int(tensor) for tensor in node["inputs"] if int(tensor) not in borders)
    left = Counter(str(node["op_name"]) for node in own if node["index"] not in taken)
    return placed(accelerator, len(taken), sum(left.values()), left, partitions=len(delegates))
