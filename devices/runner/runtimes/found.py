"""Which runtime runs which format."""

from __future__ import annotations

from typing import Callable

from ..job import Job
from .coreml import CoreMl
from .interface import Runtime
from .litert import LiteRt
from .litert_compiled import ACCELERATORS, LiteRtCompiled
from .onnx_runtime import OnnxRuntime
from .pytorch import PyTorch
from .tensorrt import TensorRt

BY_FORMAT: dict[str, Callable[[Job], Runtime]] = {
    "onnx": OnnxRuntime,
    "tflite": LiteRt,
    "pt2": PyTorch,
    "coreml": CoreMl,
    "tensorrt": TensorRt,
}


def runtime_for(job: Job) -> Runtime:
    """The runtime of the job's format, imported. Raises Failure of kind missing_runtime or bad_job."""
    if job.format == "tflite" and job.accelerator in ACCELERATORS and job.delegate is None:
        return LiteRtCompiled(job)
    return BY_FORMAT[job.format](job)
