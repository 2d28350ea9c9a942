"""TensorRT 8.5 or newer by its Python package. Written against its documentation; not yet run on a GPU."""

from __future__ import annotations

from typing import Any, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor
from .arrays import to_array, to_tensors
from .cuda import Cuda
from .interface import Call, by_name, module, placed


class TensorRt:
    """One engine. A timed call copies the inputs to the GPU, computes, copies the outputs back and waits for all of it."""

    name = "tensorrt"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._trt, _ = module("tensorrt")
        self._cuda = Cuda()
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._engine: Any = None
        self._context: Any = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._results: dict[str, Any] = {}

    def versions(self) -> dict[str, str]:
        return {"tensorrt": str(self._trt.__version__), "cudart": self._cuda.version()}

    def load(self) -> None:
        with open(self._job.artifact, "rb") as file:
            self._engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(file.read())
        if self._engine is None:
            raise Failure(
                "load",
                f"TensorRT {self._trt.__version__} refused the engine: it runs only on the GPU and version it was built for",
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._outputs = [name for name in names if not is_input[name]]

    def threads(self) -> int | None:
        return None

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        numpy, _ = module("numpy")
        cuda, context, stream = self._cuda, self._context, self._cuda.stream()
        arrays = {name: to_array(tensor) for name, tensor in zip(self._inputs, by_name(inputs, self._inputs))}
        for name, array in arrays.items():
            context.set_input_shape(name, array.shape)
        for name in self._outputs:
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            self._results[name] = numpy.empty(tuple(context.get_tensor_shape(name)), dtype)
        buffers = {name: cuda.allocate(array.nbytes) for name, array in {**arrays, **self._results}.items()}
        for name, buffer in buffers.items():
            context.set_tensor_address(name, buffer)
        into = [(buffers[name], array.ctypes.data, array.nbytes) for name, array in arrays.items()]
        out_of = [(array.ctypes.data, buffers[name], array.nbytes) for name, array in self._results.items()]

        def call() -> None:
            for target, source, size in into:
                cuda.to_device(target, source, size, stream)
            if not context.execute_async_v3(stream):
                raise RuntimeError("TensorRT could not run the engine")
            for target, source, size in out_of:
                cuda.to_host(target, source, size, stream)
            cuda.wait(stream)

        call.arrays = arrays  # type: ignore[attr-defined]  # keeps the memory that the copies read from
        return call

    def collect(self, result: Any) -> list[Tensor]:
        return to_tensors([(name, self._results[name]) for name in self._outputs])

    def placement(self) -> dict[str, Any]:
        """An engine has no operators outside TensorRT: whatever cannot be built ends the build."""
        return placed(self._job.accelerator, getattr(self._engine, "num_layers", None), 0)

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        times: dict[str, list[float]] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc,name-defined]
            def report_layer_time(self, name: str, milliseconds: float) -> None:
                times.setdefault(name, []).append(milliseconds)

        profiler = Profiler()
        self._context.profiler = profiler
        for _ in range(runs):
            call()
        return [
            {"name": name, "kind": name, "provider": "tensorrt", "runs": len(taken), "mean_ns": 1e6 * sum(taken) / len(taken)}
            for name, taken in times.items()
        ]
