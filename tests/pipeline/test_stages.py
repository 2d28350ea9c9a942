"""In which order an export's jobs get the workers' turns."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeopt.pipeline import stages
from edgeopt.pipeline.jobs import Job, jobs_of
from edgeopt.pipeline.run import Data
from edgeopt.targets import loader


def test_a_conversion_that_goes_on_keeps_one_worker_and_not_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = threading.Event()  # must be set for the first of the early conversions to end
    promised: list[str] = []
    waited: list[bool] = []
    run: Any = SimpleNamespace(
        options=SimpleNamespace(jobs=2), programs=SimpleNamespace(turn=nullcontext), host=SimpleNamespace(close=lambda: None),
        captured=None,
    )  # fmt: skip
    jobs = jobs_of([loader.load(name) for name in ("portable-fp32", "x86-fbgemm", "arm-xnnpack")], io_float=False)

    def promise(run: Any, job: Job, data: Data | None, ahead: Executor) -> None:
        promised.append(job.name)

    def convert(run: Any, job: Job, data: Data | None) -> str:
        if job.name == "portable-fp32/tflite":
            waited.append(lowered.wait(timeout=60))
        return job.name

    def finish(
        run: Any, group: list[Job], data: Data, keys: dict[str, str], early: Callable[[], Any] | None
    ) -> list[Any]:  # fmt: skip
        job = group[0]
        if early is None:
            lowered.set()  # only now the early one may end: it must not stand before this one
        else:
            assert early() == job.name
        return [SimpleNamespace(target=one.profile.name, format=one.format) for one in group]

    monkeypatch.setattr(stages, "promise", promise)
    monkeypatch.setattr(stages, "convert", convert)
    monkeypatch.setattr(stages, "_finish", finish)
    monkeypatch.setattr(stages, "_calibrate", lambda *_: None)
    monkeypatch.setattr(stages, "_data", lambda *_: SimpleNamespace(references=tmp_path, calibrated=None))
    results, _ = stages._make_all(run, None, jobs, tmp_path, {})  # type: ignore[arg-type]
    assert waited == [True]
    assert [f"{result.target}/{result.format}" for result in results] == [job.name for job in jobs]
    assert promised == ["portable-fp32/onnx", "portable-fp32/tflite", "arm-xnnpack/tflite", "x86-fbgemm/onnx"]
