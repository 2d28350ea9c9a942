"""LiteRT's CompiledModel, its way to GPUs and NPUs. Its CPU part is tried out; with a GPU or an NPU it has not yet been run."""

from __future__ import annotations

from functools import partial
from typing import Any, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor
from .arrays import to_array, to_tensors
from .interface import Call, by_name, module, package_version, placed

ACCELERATORS = ("gpu", "npu")
_LEFT = "not accelerated"
_UNNAMED = "operator or more, which LiteRT does not name"


class LiteRtCompiled:
    """One compiled model on an accelerator, alone if it takes every operator, else together with the CPU.

    Asked for an accelerator and the CPU at once, CompiledModel computes everything on the CPU where the accelerator is missing,
    and calls that fully accelerated: hence the first try without the CPU, whose outcome is the only trustworthy one.
    """

    name = "ai-edge-litert"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._library, _ = module("ai_edge_litert.compiled_model")
        self._model: Any = None
        self._alone = True
        self._signature = ""
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._results: list[Any] = []

    def versions(self) -> dict[str, str]:
        return {self.name: package_version(self.name), "numpy": package_version("numpy")}

    def load(self) -> None:
        accelerators = self._library.HardwareAccelerator
        accelerator = getattr(accelerators, self._job.accelerator.upper())
        try:
            self._model = self._compile(accelerator)
        except RuntimeError as error:
            if _LEFT not in str(error):
                raise
            if self._job.fail_on_fallback:
                raise Failure("fallback", str(error)) from error
            self._alone = False
            self._model = self._compile(accelerator | accelerators.CPU)
        ((self._signature, names),) = self._model.get_signature_list().items()
        self._inputs, self._outputs = list(names["inputs"]), list(names["outputs"])

    def _compile(self, accelerator: Any) -> Any:
        library = self._library
        cpu = library.CpuOptions(num_threads=self._job.threads)
        options = library.Options(hardware_accelerators=accelerator, cpu_options=cpu)
        return library.CompiledModel.from_file(self._job.artifact, options=options)

    def threads(self) -> int | None:
        return None

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        """A call computes from buffers that are filled already; on a GPU they may be read back only by ``collect``."""
        details = self._model.get_input_tensor_details(self._signature)
        sources, self._results = self._model.create_input_buffers(0), self._model.create_output_buffers(0)
        for name, tensor, buffer in zip(self._inputs, by_name(inputs, self._inputs), sources):
            expected = str(details[name]["dtype"]), tuple(details[name]["shape"])
            if (tensor.dtype, tensor.shape) != expected:  # a buffer takes any bytes
                raise ValueError(f"input {name} is {tensor.dtype} {tensor.shape}, the model takes {expected[0]} {expected[1]}")
            buffer.write(to_array(tensor))
        return partial(self._model.run_by_index, 0, sources, self._results)

    def collect(self, result: Any) -> list[Tensor]:
        numpy, _ = module("numpy")
        details = self._model.get_output_tensor_details(self._signature)
        found = []
        for name, buffer in zip(self._outputs, self._results):
            shape, dtype = tuple(details[name]["shape"]), numpy.dtype(details[name]["dtype"])
            found.append((name, buffer.read(int(numpy.prod(shape)), dtype.type).reshape(shape)))
        return to_tensors(found)

    def placement(self) -> dict[str, Any]:
        """CompiledModel does not count: where the CPU was needed, the fallback is one operator at least."""
        if self._alone:
            return placed(self._job.accelerator, None, 0)
        return placed(self._job.accelerator, None, 1, {_UNNAMED: 1})

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        raise Failure("missing_runtime", "LiteRT has no times of operators in Python; its benchmark_model has")
