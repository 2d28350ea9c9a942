#!/usr/bin/env python3
"""Where the time of one export goes: runs ``edgeopt`` with a stopwatch around each stage, in every process of it.

    .venv/bin/python scripts/export_stages.py build/stages.jsonl export examples/mobilenet_v2.py:model --out build/mobilenet_v2
    .venv/bin/python scripts/export_stages.py --profile build/profiles build/stages.jsonl export ...    # with cProfile's files

It writes one JSON line for each stage that ended; scripts/bench_export.py makes a table of them. A stage of workers is known
by the file that is made and by the stages around it. Times of stages within others count in both.
"""

import cProfile
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

FILE, PROFILES = "EDGEOPT_STAGES", "EDGEOPT_STAGES_PROFILES"

MAIN = {
    "edgeopt.pipeline.stages:capture": "capture",
    "edgeopt.pipeline.stages:evaluate_model": "evaluate the model",
    "edgeopt.pipeline.stages:_calibrate": "calibrate",
    "edgeopt.pipeline.stages:write_references": "references",
    "edgeopt.pipeline.program:Programs._made": "quantize and save",
    "edgeopt.pipeline.schemes:evaluate": "evaluate",
    "edgeopt.pipeline.replan:Replanner.faster": "time all",
    "edgeopt.pipeline.stages:_manifest": "manifest",
}
"""Functions of the main process, and the stage that each is."""

CHILD = {
    "edgeopt.pipeline.tasks:convert": "convert",
    "edgeopt.pipeline.tasks:inspect": "inspect",
    "edgeopt.pipeline.tasks:check": "check",
    "edgeopt.pipeline.tasks:time_against_twin": "time",
    "edgeopt.pipeline.tasks:_run_program": "run the program",
    "edgeopt.model.program_file:read_program": "load the program",
    "edgeopt.converters.tflite.forms:rewritten": "forms",
    "litert_torch:convert": "litert-torch",
    "litert_torch.fx_infra:safe_run_decompositions": "decompose",
    "litert_torch.backend.export:exported_program_to_mlir": "to MLIR",
    "litert_torch._convert.litert_converter:exported_programs_to_flatbuffer": "to TFLite",
    "torch.onnx:export": "torch.onnx.export",
    "torch.export.exported_program:ExportedProgram.run_decompositions": "decompose",
    "onnxscript.optimizer:optimize": "onnxscript",
    "onnx.checker:check_model": "onnx checker",
    "coremltools:convert": "coremltools",
}
"""Functions of workers, and the stage that each is."""

_within = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Around one stage: writes its wall and CPU seconds, and the stages that it stands in."""
    stack: list[str] = _within.__dict__.setdefault("stack", [])
    stack.append(name)
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        wrote(list(stack), time.perf_counter() - wall, time.thread_time() - cpu)
        stack.pop()


def wrote(stack: list[str], wall: float, cpu: float) -> None:
    """Adds a line to the file that the environment names; several processes may do so at once."""
    line = json.dumps({"stage": stack, "wall": wall, "cpu": cpu, "ended": time.time(), "process": os.getpid()})
    with Path(os.environ[FILE]).open("a") as file:
        file.write(line + "\n")


def watch(functions: dict[str, str]) -> None:
    """Puts a stopwatch around each function that there is; one that is missing is said."""
    for where, name in functions.items():
        module, _, path = where.partition(":")
        *holders, last = path.split(".")
        try:
            holder: Any = functools.reduce(getattr, holders, import_module(module))
            setattr(holder, last, _watched(getattr(holder, last), name))
        except (ImportError, AttributeError) as error:
            print(f"export_stages: no {where}: {error}", file=sys.stderr)


def _watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*arguments: Any, **options: Any) -> Any:
        label = " ".join(filter(None, (name, *map(_subject, arguments[:2]))))
        with stage(label), _profiled(label):
            return function(*arguments, **options)

    return watched


_numbers = count()


def _subject(argument: Any) -> str:
    """Which target's artifact a stage works on, where its argument tells."""
    if isinstance(argument, dict) and "out" in argument:
        return "/".join(Path(argument["out"]).parts[-2:])
    made = getattr(argument, "made", argument)
    job = getattr(made, "job", made)
    return str(job.name) if hasattr(job, "profile") else ""


@contextmanager
def _profiled(label: str) -> Iterator[None]:
    if not os.environ.get(PROFILES) or len(_within.stack) > 1:
        yield
        return
    profile = cProfile.Profile(time.thread_time)
    with profile:
        yield
    name = label.replace("/", "_").replace(" ", "_")
    profile.dump_stats(Path(os.environ[PROFILES]) / f"{name}-{os.getpid()}-{next(_numbers)}")


def install() -> None:
    """In the worker host, after all that it imports and before it forks."""
    wrote(["start of the worker host"], time.time() - _process_started(), time.process_time())
    watch(CHILD)


def _process_started() -> float:
    import psutil

    return float(psutil.Process().create_time())


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[0] == "--profile":
        os.environ[PROFILES] = str(Path(arguments[1]).absolute())
        Path(arguments[1]).mkdir(parents=True, exist_ok=True)
        arguments = arguments[2:]
    os.environ[FILE] = str(Path(arguments[0]).absolute())
    from edgeopt.pipeline import hosts, stages  # noqa: F401  so that it is known how long this takes

    wrote(["imports of the main process"], time.time() - _process_started(), time.process_time())
    _install_last(hosts)
    watch(MAIN)
    from edgeopt.cli.entry import main as edgeopt_main

    sys.argv = ["edgeopt", *arguments[1:]]
    edgeopt_main()


def _install_last(hosts: Any) -> None:
    """Every worker host of the export calls :func:`install` after what it imports."""
    original = hosts.WorkerHost
    hosts.WorkerHost = lambda preload: original((*preload, "export_stages:install"))


if __name__ == "__main__":
    main()
