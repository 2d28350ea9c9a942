"""PyTorch, for programs of torch.export (.pt2) and packages compiled by AOTInductor."""

from __future__ import annotations

import ctypes
import importlib
import os
import zipfile
from typing import Any, Sequence

from ..failures import Failure
from ..job import Job
from ..tensors import Tensor
from .interface import Call, by_name, module, placed

_FORCE_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class PyTorch:
    """One program in this process, on the CPU or on ``cuda``; names of outputs are those of the program's graph."""

    name = "torch"

    def __init__(self, job: Job) -> None:
        self._job = job
        # torch.export.load asks for unrestricted unpickling in places; this variable overrules it.
        os.environ[_FORCE_TENSORS_ONLY] = "1"
        self._torch, _ = module("torch")
        if job.accelerator not in ("cpu", "cuda"):
            raise Failure("bad_job", f"PyTorch runs on cpu or cuda here, not on {job.accelerator}")
        if job.accelerator == "cuda" and not self._torch.cuda.is_available():
            raise Failure("no_accelerator", f"PyTorch {self._torch.__version__} finds no CUDA device")
        self._torch.set_num_threads(job.threads)
        self._module: Any = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []

    def versions(self) -> dict[str, str]:
        return {"torch": str(self._torch.__version__)}

    def load(self) -> None:
        if _is_compiled(self._job.artifact):
            self._module = importlib.import_module("torch._inductor").aoti_load_package(self._job.artifact)
            return
        _register_quantized_operators()
        program = importlib.import_module("torch.export").load(self._job.artifact)
        signature = program.graph_signature
        self._inputs, self._outputs = (
            [str(name) for name in signature.user_inputs],
            [str(name) for name in signature.user_outputs],
        )
        found = program.module()
        self._module = found.to("cuda") if self._job.accelerator == "cuda" else found

    def threads(self) -> int | None:
        return int(self._torch.get_num_threads())

    def prepare(self, inputs: Sequence[Tensor]) -> Call:
        given = {tensor.name for tensor in inputs}
        ordered = by_name(inputs, self._inputs) if given == set(self._inputs) else inputs  # else the order is the caller's
        arguments = [self._tensor(tensor) for tensor in ordered]
        run, no_grad, cuda = self._module, self._torch.no_grad, self._torch.cuda

        def call() -> Any:
            with no_grad():
                return run(*arguments)

        def call_and_wait() -> Any:
            result = call()
            cuda.synchronize()
            return result

        return call_and_wait if self._job.accelerator == "cuda" else call

    def _tensor(self, tensor: Tensor) -> Any:
        dtype = getattr(self._torch, tensor.dtype)
        flat = self._torch.frombuffer(bytearray(tensor.data), dtype=dtype) if tensor.data else self._torch.empty(0, dtype=dtype)
        return flat.reshape(tensor.shape).clone().to(self._job.accelerator)

    def collect(self, result: Any) -> list[Tensor]:
        leaves, _ = importlib.import_module("torch.utils._pytree").tree_flatten(result)
        names = self._outputs if len(self._outputs) == len(leaves) else [f"output_{number}" for number in range(len(leaves))]
        return [self._read(name, leaf) for name, leaf in zip(names, leaves)]

    def _read(self, name: str, value: Any) -> Tensor:
        if not isinstance(value, self._torch.Tensor):
            raise Failure("run", f"output {name} is of type {type(value).__name__}: only tensors can be compared")
        value = value.detach().cpu().contiguous()
        bad = int((~self._torch.isfinite(value)).sum()) if value.is_floating_point() else 0
        # Not by numpy, which torch works without.
        data = ctypes.string_at(value.data_ptr(), value.numel() * value.element_size()) if value.numel() else b""
        return Tensor(name, str(value.dtype).replace("torch.", ""), tuple(value.shape), data, bad)

    def placement(self) -> dict[str, Any]:
        return placed(self._job.accelerator, None, 0)

    def operators(self, call: Call, runs: int) -> list[dict[str, Any]]:
        profiler = importlib.import_module("torch.profiler")
        with profiler.profile() as profile:
            for _ in range(runs):
                call()
        return [
            {
                "name": entry.key,
                "kind": entry.key,
                "provider": "cpu",
                "runs": runs,
                "mean_ns": 1000 * entry.self_cpu_time_total / runs,
            }
            for entry in profile.key_averages()
        ]


def _is_compiled(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any("aotinductor/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise Failure("load", f"{path} is no .pt2 archive: {error}") from error


def _register_quantized_operators() -> None:
    """Programs quantized by PT2E call operators that exist only once the module is imported that defines them."""
    for name in ("torch.ao.quantization.fx._decomposed", "torchao.quantization.pt2e._decomposed"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
