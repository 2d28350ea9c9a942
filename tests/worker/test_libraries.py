"""The real libraries can be imported in the host and used in a fork of it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.worker.client import WorkerHost

LIBRARIES = ("numpy", "torch", "onnx", "onnxscript", "onnxruntime", "litert_torch", "ai_edge_litert.interpreter", "coremltools")
HERE = "tests.worker.test_libraries:"


def onnx_session(request: dict[str, Any]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    import onnxruntime
    import torch

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x

    program = torch.export.export(Double(), (torch.zeros(8, 8),))
    torch.onnx.export(program, dynamo=True).save(request["path"])  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(request["path"])
    return lambda arrays: tuple(session.run(None, {session.get_inputs()[0].name: arrays[0]}))


def facts(request: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {
        "loaded": [name for name in LIBRARIES if name in sys.modules],
        "torch_threads": torch.get_num_threads(),
        "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
        "hash": hash("the same in every worker"),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
def test_libraries_are_imported_once_and_work_in_every_fork(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with WorkerHost(LIBRARIES) as host:
            found.append(host.run(HERE + "facts", {}, timeout_s=300, log=tmp_path / "facts.log"))
            assert (tmp_path / "facts.log").read_text() == "", "no fallback to a fresh interpreter"
    assert found[0] == found[1]
    assert found[0]["loaded"] == list(LIBRARIES)
    assert (found[0]["torch_threads"], found[0]["telemetry"]) == (1, "1")


@pytest.mark.slow
def test_onnx_runtime_computes_in_a_session(tmp_path: Path) -> None:
    x = np.eye(8, dtype=np.float32) * 3
    with WorkerHost(("torch", "onnxscript", "onnxruntime")) as host:
        request = {"path": str(tmp_path / "m.onnx")}
        with host.session(HERE + "onnx_session", request, timeout_s=300, log=tmp_path / "log") as session:
            assert session.call((x,))[0].tolist() == (np.eye(8) * 9).tolist()
