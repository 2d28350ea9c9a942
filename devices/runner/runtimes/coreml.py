"""Core ML by coremltools, on macOS. Written against coremltools 9's documentation and source; not yet run on a Mac."""

from __future__ import annotations

import importlib
import platform
import sys
from collections import Counter
from functools import partial
from typing import Any, Iterator, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor
from .arrays import to_array, to_tensors
from .interface import Call, by_name, module, package_version, placed

_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu_only": "CPU_ONLY", "cpu_and_gpu": "CPU_AND_GPU", "cpu_and_ne": "CPU_AND_NE"}
_UNITS.update(gpu="CPU_AND_GPU", npu="CPU_AND_NE")
_DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ne"}


class CoreMl:
    """One model with compute units. Core ML chooses its own threads; its predictions keep no memory of each other."""

    name = "coremltools"

    def __init__(self, job: Job) -> None:
        self._job = job
        if sys.platform != "darwin":
            raise Failure("missing_runtime", f"Core ML runs on macOS only, this is {platform.system()}")
        if job.accelerator not in _UNITS:
            raise Failure("bad_job", f"Core ML has compute units {sorted(_UNITS)}, not {job.accelerator}")
        self._ct: Any = module("coremltools")[0]
        self._units: Any = getattr(self._ct.ComputeUnit, _UNITS[job.accelerator])
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return {"coremltools": self._ct.__version__, "macos": platform.mac_ver()[0], "numpy": package_version("numpy")}

    def load(self) -> None:
        """Compiles the package for this machine too: coremltools has no other way to a model."""
        if self._job.artifact.rstrip("/").endswith(".mlmodelc"):
            self._model = self._ct.models.CompiledMLModel(self._job.artifact, self._units)
        else:
            self._model = self._ct.models.MLModel(self._job.artifact, compute_units=self._units)
        placement = self.placement()
        if self._job.fail_on_fallback and self._units != self._ct.ComputeUnit.CPU_ONLY and placement["fallback"]:
            message = f"{placement['fallback']} operators are planned for the CPU: {placement['operators']}"
            raise Failure("fallback", message)

    def threads(self) -> int | None:
        return None

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        names = [str(value.name) for value in self._model.get_spec().description.input]
        feeds = {name: to_array(tensor) for name, tensor in zip(names, by_name(inputs, names))}
        return partial(self._model.predict, feeds)

    def collect(self, result: Any) -> list[Tensor]:
        return to_tensors(sorted(result.items()))

    def placement(self) -> dict[str, Any]:
        """By MLComputePlan (macOS 14.4 or newer): the device that Core ML prefers for each operator of the main function."""
        plan = self._plan()
        if plan is None or plan.model_structure.program is None:
            return placed(self._job.accelerator, None, None)
        devices: Counter[str] = Counter()
        on_cpu: Counter[str] = Counter()
        for operation in _operations(plan.model_structure.program.functions["main"].block):
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is None:  # constants have none
                continue
            device = _DEVICES.get(type(usage.preferred_compute_device).__name__, "unknown")
            devices[device] += 1
            if device == "cpu":
                on_cpu[operation.operator_name] += 1
        elsewhere = sum(devices.values()) - devices["cpu"]
        return placed(self._job.accelerator, elsewhere, devices["cpu"], on_cpu, devices=dict(devices))

    def _plan(self) -> Any:
        try:
            plans = importlib.import_module("coremltools.models.compute_plan")
            path = self._model.get_compiled_model_path()
            return plans.MLComputePlan.load_from_path(path=path, compute_units=self._units)
        except (ImportError, AttributeError, RuntimeError, TypeError):  # an older coremltools or macOS
            return None

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        raise Failure("missing_runtime", "Core ML tells no times of operators; its placement says where each runs")


def _operations(block: Any) -> Iterator[Any]:
    """Those of inner blocks (cond, while_loop) too."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)
