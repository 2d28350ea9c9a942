#!/usr/bin/env python3
"""Measures export against its goals: time, memory, and the speed of what it makes. Run it on an otherwise idle machine.

    .venv/bin/python scripts/bench_export.py                # every part, about eight minutes
    .venv/bin/python scripts/bench_export.py stages help    # some parts

Every figure comes from the real command in processes of their own, with a cache folder that starts out empty.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import stage_table
from figures import Figure

ROOT = Path(__file__).resolve().parents[1]
EDGEOPT = Path(sys.executable).with_name("edgeopt")
MODEL = f"{ROOT / 'examples' / 'mobilenet_v2.py'}:model"
SAMPLE_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished command: wall time, and the highest memory of its own process and of its whole tree, in MiB."""

    seconds: float
    main_mib: float
    tree_mib: float


def run(*arguments: str, cache: Path, samples: int = 200) -> Run:
    """Runs ``edgeopt`` and watches its memory. Shared pages of the tree count once (PSS)."""
    environment = os.environ | {"EDGEOPT_CACHE": str(cache), "EDGEOPT_EXAMPLE_SAMPLES": str(samples)}
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = psutil.Popen([str(EDGEOPT), *arguments], env=environment, stdout=output, stderr=output)
        main = tree = 0
        while process.poll() is None:
            main = max(main, resident(process))
            tree = max(tree, sum(map(proportional, [process, *descendants(process)])))
            time.sleep(SAMPLE_EVERY_S)
        seconds = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"edgeopt {' '.join(arguments)} ended with {process.returncode}:\n{output.read().decode()}")
    return Run(seconds=seconds, main_mib=main / 2**20, tree_mib=tree / 2**20)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it ended meanwhile
        return 0


def proportional(process: psutil.Process) -> int:
    """Resident bytes, each shared page divided by the number of processes that share it (Linux), else all of them."""
    try:
        return int(getattr(process.memory_full_info(), "pss", 0)) or resident(process)
    except psutil.Error:
        return 0


def bench_help(folder: Path) -> Iterator[Figure]:
    """Median of ten."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        subprocess.run([EDGEOPT, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    yield Figure(name="edgeopt --help, median of 10", value=statistics.median(times), unit="s", goal=0.2)


def bench_export(folder: Path) -> Iterator[Figure]:
    """Every target of MobileNetV2 with 200 calibration images: cold, then again with nothing changed."""
    out, cache = folder / "bundle", folder / "cache"
    cold = run("export", MODEL, "--out", str(out), cache=cache)
    yield Figure(name="export to every target, 200 images, cold", value=cold.seconds, unit="s", goal=60)
    yield from latencies(out)
    warm = run("export", MODEL, "--out", str(out), cache=cache)
    yield Figure(name="the same again, nothing changed", value=warm.seconds, unit="s", goal=2)


def latencies(bundle: Path) -> Iterator[Figure]:
    """Time of each artifact that ran here over its fp32 twin's; the goal is for the int8 ones made for this CPU's family."""
    judged = {("x86-fbgemm", "onnx"), ("arm-xnnpack", "tflite")}
    for result in json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["results"]:
        latency = result["latency"]
        if latency and result["target"] != "portable-fp32":
            name = f"{result['target']} {result['format']}: time over fp32, {latency['threads']} thread(s)"
            goal = 0.6 if (result["target"], result["format"]) in judged else None
            yield Figure(name=name, value=latency["median_ms"] / latency["twin_ms"], unit="x", goal=goal)


def bench_memory(folder: Path) -> Iterator[Figure]:
    """Peak memory with 200 and with 2,000 calibration images."""
    runs = {}
    for samples in (200, 2000):
        work = folder / str(samples)
        runs[samples] = run("export", MODEL, "--out", str(work / "bundle"), cache=work / "cache", samples=samples)
        yield Figure(name=f"peak of the main process, {samples} images", value=runs[samples].main_mib, unit="MiB")
        yield Figure(name=f"peak of the process tree, {samples} images", value=runs[samples].tree_mib, unit="MiB")
    few, many = runs[200], runs[2000]
    yield Figure(name="main process, 2,000 over 200 images", value=many.main_mib / few.main_mib, unit="x", goal=1.05)
    yield Figure(name="process tree, 2,000 over 200 images", value=many.tree_mib / few.tree_mib, unit="x", goal=1.05)


def bench_stages(folder: Path) -> Iterator[Figure | str]:
    """Where the time of a cold export goes: wall and CPU seconds of each stage, in every process."""
    lines, out = folder / "stages.jsonl", folder / "bundle"
    command = [sys.executable, str(ROOT / "scripts" / "export_stages.py"), str(lines), "export", MODEL, "--out", str(out)]
    before, start = _children_cpu(), time.perf_counter()
    subprocess.run(
        command, check=True, env=os.environ | {"EDGEOPT_CACHE": str(folder / "cache")}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - start, _children_cpu() - before
    yield from stage_table.table(lines, out / "manifest.json", cpu)
    yield Figure(name="cold export, its stages timed", value=wall, unit="s", goal=60)
    yield Figure(name="CPU of its process tree, over two cores", value=cpu / 2, unit="s", goal=60)


def _children_cpu() -> float:
    """User and system seconds of all processes that were started here, or by those, and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


PARTS: dict[str, Callable[[Path], Iterator[Figure | str]]] = {
    "help": bench_help, "export": bench_export, "stages": bench_stages, "memory": bench_memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: every one")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    print(f"{psutil.cpu_count()} CPUs, load before the start {psutil.getloadavg()[0]:.1f}")
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            for figure in PARTS[part](Path(folder)):
                print(figure, flush=True)


if __name__ == "__main__":
    main()
