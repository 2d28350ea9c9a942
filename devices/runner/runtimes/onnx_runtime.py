"""ONNX Runtime, with its execution providers as accelerators."""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import partial
from typing import Any, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor
from .arrays import to_array, to_tensors
from .interface import Call, by_name, module, package_version, placed

_CPU = "CPUExecutionProvider"
_CORE_ML_UNITS = {"all": "ALL", "cpu_and_ne": "CPUAndNeuralEngine", "cpu_and_gpu": "CPUAndGPU", "cpu_only": "CPUOnly"}
_PROVIDERS = {
    "cpu": _CPU,
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "npu": "QNNExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "gpu": "DmlExecutionProvider",
}
_ERRORS_ONLY = 3
_MAX_PROFILE_BYTES = 512 * 1024**2


class OnnxRuntime:
    """One session: ``threads`` within an operator, operators one after another, all else as ONNX Runtime has it by default."""

    name = "onnxruntime"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ort, _ = module("onnxruntime")
        self._provider = "CoreMLExecutionProvider" if job.accelerator in _CORE_ML_UNITS else _PROVIDERS.get(job.accelerator, "")
        available = self._ort.get_available_providers()
        if self._provider not in available:
            known = f"ONNX Runtime {self._ort.__version__} here has only {', '.join(available)}"
            raise Failure("no_accelerator", f"no provider for accelerator {job.accelerator}: {known}")
        self._session: Any = None
        self._names: list[str] = []
        self._profiled: list[dict[str, Any]] = []
        # Beside the CPU, only a profile tells which node ran where: that of the first run, which ends before any run is timed.
        self._profiling = job.mode == "operators" or self._provider != _CPU

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": self._ort.__version__, "numpy": package_version("numpy")}

    def load(self) -> None:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._job.threads, 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        if self._profiling:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(os.getcwd(), "profile")
        if self._strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = self._ort.InferenceSession(self._job.artifact, options, providers=self._providers())
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if self._strict and "fallback" in str(error):
                raise Failure("fallback", str(error)) from error
            raise
        if self._provider not in self._session.get_providers():
            # ONNX Runtime only warns where a provider's own libraries are missing, and goes on with the CPU.
            raise Failure("no_accelerator", f"{self._provider} could not be started; ONNX Runtime would use the CPU")
        self._names = [value.name for value in self._session.get_inputs()]

    @property
    def _strict(self) -> bool:
        return self._job.fail_on_fallback and self._provider != _CPU

    def _providers(self) -> list[Any]:
        if self._provider == _CPU:
            return [_CPU]
        units = _CORE_ML_UNITS.get(self._job.accelerator)
        options = {"MLComputeUnits": units} if units else {}
        # Naming the CPU provider and forbidding its use contradict each other, for ONNX Runtime too.
        return [(self._provider, options)] + ([] if self._strict else [_CPU])

    def threads(self) -> int | None:
        return int(self._session.get_session_options().intra_op_num_threads)

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        feeds = {name: to_array(tensor) for name, tensor in zip(self._names, by_name(inputs, self._names))}
        return partial(self._session.run, None, feeds)

    def collect(self, result: Any) -> list[Tensor]:
        if self._profiling and self._job.mode != "operators":
            self._read_profile(1)
        return to_tensors([(value.name, array) for value, array in zip(self._session.get_outputs(), result)])

    def placement(self) -> dict[str, Any]:
        """As the profile has it; on the CPU alone nothing can fall back."""
        providers = self._session.get_providers()
        if self._profiled:
            return dict(placement_in(self._profiled, self._job.accelerator), providers=providers)
        return placed(self._job.accelerator, None, 0 if self._provider == _CPU else None, providers=providers)

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        for _ in range(runs):
            call()
        self._read_profile(runs)
        return self._profiled

    def _read_profile(self, runs: int) -> None:
        """Ends the profile, for good, and keeps what it says of the last ``runs`` runs."""
        self._profiling = False
        path = self._session.end_profiling()
        try:
            if os.path.getsize(path) > _MAX_PROFILE_BYTES:
                raise Failure("run", f"the profile is larger than {_MAX_PROFILE_BYTES} bytes")
            with open(path, encoding="utf-8", errors="replace") as file:
                self._profiled = from_profile(json.load(file), runs)
        finally:
            os.remove(path)


def from_profile(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """Operators in the order of their first run, from the events of ONNX Runtime's profile (times in microseconds).

    Of each node the last ``runs`` times count: what came before was the warm-up.
    """
    times: dict[str, list[int]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        arguments = event.get("args", {})
        node = name[: -len("_kernel_time")]
        kind, provider = str(arguments.get("op_name", "")), str(arguments.get("provider", ""))
        facts.setdefault(node, {"name": node, "kind": kind, "provider": provider})
        times.setdefault(node, []).append(int(event["dur"]))
    counted = {node: taken[-runs:] for node, taken in times.items()}
    return [
        dict(fact, runs=len(counted[node]), mean_ns=1000 * sum(counted[node]) / len(counted[node]))
        for node, fact in facts.items()
    ]


def placement_in(operators: Sequence[dict[str, Any]], accelerator: str) -> dict[str, Any]:
    """The placement that a profile shows: nodes outside the CPU provider, and those that fell back to it."""
    fell = Counter(operator["kind"] for operator in operators if operator["provider"] == _CPU)
    count = sum(fell.values())
    if accelerator == "cpu":
        return placed(accelerator, len(operators), 0)
    return placed(accelerator, len(operators) - count, count, fell)
