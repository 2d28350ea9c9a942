"""What a module is worth after a step: its size, the user's numbers, and the artifact of the target that has to gain."""

from dataclasses import replace
from pathlib import Path

import zstandard
from torch import nn

from edgeopt.bench.artifacts import load
from edgeopt.bench.failed import cause_of, device_error
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import BenchResult, BenchSettings
from edgeopt.bundle.bundle import Bundle
from edgeopt.compress.common.measures import ZSTD_LEVEL, size
from edgeopt.core import TWIN, TargetResult
from edgeopt.devices import devices_toml
from edgeopt.errors import TargetFailed
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.export import export
from edgeopt.recipe.outcome import MadeFor, Worth
from edgeopt.recipe.schema import Recipe
from edgeopt.recipe.workload import Workload
from edgeopt.report.prompt import ask
from edgeopt.support.files import files_below
from edgeopt.support.progress import Listener
from edgeopt.targets.schema import TargetProfile

TIMING = BenchSettings(launches=3, min_runs=20, min_seconds=0.5, max_seconds=5.0)
"""A recipe asks for many latencies: each is a matter of seconds."""


def over_budget(recipe: Recipe, measured: Worth) -> str:
    """What of the recipe's budgets the target's artifact is beyond, with both figures; "" where it is within all."""
    size, ms = measured.bytes_of(recipe.target), measured.ms_of(recipe.target)
    beyond = []
    if recipe.max_bytes is not None and (size is None or size > recipe.max_bytes):
        beyond.append(f"{_figure(size, ',', 'bytes')}, and max_bytes is {recipe.max_bytes:,}")
    if recipe.max_latency_ms is not None and (ms is None or ms > recipe.max_latency_ms):
        beyond.append(f"{_figure(ms, '.3g', 'ms')}, and max_latency_ms is {recipe.max_latency_ms:g}")
    return "; ".join(beyond)


def _figure(value: float | None, form: str, unit: str) -> str:
    return f"no {unit} are known" if value is None else f"{value:{form}} {unit}"


def measure(workload: Workload, module: nn.Module, folder: Path, listen: Listener, *, twins: bool = False) -> Worth:
    """Everything about ``module``; the target's bundle is written to ``folder``. A target that fails is a figure too.

    ``twins``: the artifacts in float32 are timed on the device as well. Raises DeviceError where the device fails.
    """
    found = size(module, workload.model.example_inputs)
    scores = workload.scores(module)
    if workload.profile is None:
        return Worth(size=found, scores=scores)
    bundle = _exported(workload, workload.model, module, folder, listen)
    artifacts = tuple(_made(bundle, result) for result in bundle.manifest.results if _concerns(workload.profile, result))
    timed = _timed(workload, workload.profile, bundle, (workload.profile.name, *([TWIN] if twins else [])), listen)
    artifacts = tuple(_with_time(made, timed.get((made.target, made.format))) for made in artifacts)
    return Worth(size=found, scores=scores, artifacts=artifacts)


def latency_ms(workload: Workload, module: nn.Module, folder: Path, listen: Listener) -> float:
    """Median latency of the target's fastest artifact of ``module`` on the recipe's device.

    Raises TargetFailed where there is no artifact to time, DeviceError where the device fails.
    """
    assert workload.profile is not None
    bundle = _exported(workload, replace(workload.model, evaluate=None), module, folder, listen)
    timed = _timed(workload, workload.profile, bundle, (workload.profile.name,), listen)
    times = [result.typical_ms for result in timed.values() if result.typical_ms is not None]
    if not times:
        reasons = "; ".join(made.reason for made in bundle.manifest.results if made.reason)
        reasons = reasons or "; ".join(cause_of(result.reason) for result in timed.values())
        fix = "name another target or device"
        raise TargetFailed(f"{workload.profile.name} gives no latency to judge by", why=reasons, fix=fix)
    return min(times)


def _timed(
    workload: Workload, profile: TargetProfile, bundle: Bundle, targets: tuple[str, ...], listen: Listener
) -> dict[tuple[str, str], BenchResult]:  # fmt: skip
    """What the recipe's device measured, by target and format, of what there is for ``targets``, in its formats.

    A device without the runtime for them has measured nothing, which is no failure.
    """
    made = [result.target for result in bundle.manifest.results if result.status in ("ok", "unverified")]
    if profile.name not in made:
        return {}
    device = workload.recipe.device
    artifacts = [one for one in load(bundle.path) if one.subject.format in profile.formats]
    wanted = tuple(name for name in targets if name in {one.subject.target for one in artifacts})
    request = Request(
        artifacts=artifacts, devices=[devices_toml.resolve(device)], settings=TIMING, out=bundle.path.parent / "runs",
        ask=ask, listen=listen, targets=wanted,
    )  # fmt: skip
    (run,) = Benchmark(request).run()
    failed = [result for result in run.results if result.status == "failed" and result.subject.target == profile.name]
    if run.error or failed:
        fix = (
            f"see whether edgeopt bench {bundle.path} --device {device} works, then run the same command again: it goes on here"
        )
        raise device_error(f"{device} measured no latency of {profile.name}", run, next(iter(failed), None), fix)
    return {(result.subject.target, result.subject.format): result for result in run.results}


def _with_time(made: MadeFor, result: BenchResult | None) -> MadeFor:
    return made if result is None else replace(made, ms=result.typical_ms, reason=made.reason or cause_of(result.reason))


def packed_bytes(path: Path) -> int:
    """Bytes of an artifact's files packed with zstd, as a download would be."""
    files = [path / name for name in files_below(path)] if path.is_dir() else [path]
    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=sum(file.stat().st_size for file in files))
    return sum(len(packer.compress(file.read_bytes())) for file in files) + len(packer.flush())


def _exported(workload: Workload, model: Model, module: nn.Module, folder: Path, listen: Listener) -> Bundle:
    options = Options(out=folder, targets=(workload.recipe.target,) if workload.recipe.target else ())
    return export(replace(model, module=module), options, listen)


def _made(bundle: Bundle, result: TargetResult) -> MadeFor:
    artifact = result.artifact
    return MadeFor(
        target=result.target, format=result.format, status=result.status, reason=result.reason, scores=result.accuracy,
        bytes=artifact.bytes if artifact else None,
        zstd_bytes=packed_bytes(bundle.artifact_path(result)) if artifact else None,
    )  # fmt: skip


def _concerns(profile: TargetProfile, result: TargetResult) -> bool:
    """The target, and the fp32 twins in its formats."""
    return result.target == profile.name or (result.target == TWIN and result.format in profile.formats)
