"""What a module is worth after a step: its size, the user's numbers, and the artifact of the target that has to gain."""

from dataclasses import replace
from getpass import getpass
from pathlib import Path
from statistics import median

import zstandard
from torch import nn

from edgeopt.bench.artifacts import load
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import BenchSettings
from edgeopt.bundle import Bundle
from edgeopt.compress.measures import ZSTD_LEVEL, size
from edgeopt.core import TWIN, TargetResult
from edgeopt.devices import known
from edgeopt.errors import RunFailed, TargetFailed
from edgeopt.files import files_below
from edgeopt.options import Listener, Options
from edgeopt.pipeline import export
from edgeopt.recipe.outcome import MadeFor, Measured
from edgeopt.recipe.subject import Subject
from edgeopt.registry import LOCAL


def measure(subject: Subject, module: nn.Module, folder: Path, listen: Listener) -> Measured:
    """Everything about ``module``; the target's bundle is written to ``folder``. A target that fails is a figure too."""
    found = size(module, subject.model.example_inputs)
    scores = subject.scores(module)
    if subject.recipe.target is None:
        return Measured(size=found, scores=scores)
    bundle = _exported(subject, module, folder, listen)
    artifacts = tuple(_made(bundle, result) for result in bundle.manifest.results if _concerns(subject, result))
    if subject.recipe.device != LOCAL:
        times = device_ms(subject, folder, listen)
        artifacts = tuple(replace(made, ms=times.get((made.target, made.format))) for made in artifacts)
    return Measured(size=found, scores=scores, artifacts=artifacts)


def latency_ms(subject: Subject, module: nn.Module, folder: Path, listen: Listener) -> float:
    """Median latency of the target's artifact of ``module`` on the recipe's device. Raises TargetFailed where there is none."""
    bundle = _exported(subject, module, folder, listen)
    if subject.recipe.device != LOCAL:
        times = [ms for (target, _), ms in device_ms(subject, folder, listen).items() if _is_target(subject, target)]
    else:
        times = [result.latency.median_ms for result in bundle.manifest.results if _timed(subject, result) and result.latency]
    if not times:
        reasons = "; ".join(result.reason for result in bundle.manifest.results if _timed(subject, result) and result.reason)
        raise TargetFailed(
            f"{subject.recipe.target} gives no latency to judge by", why=reasons, fix="name another target or device"
        )
    return min(times)


def device_ms(subject: Subject, bundle: Path, listen: Listener) -> dict[tuple[str, str], float]:
    """Median latency of the bundle's artifacts on the recipe's device, by target and format. Raises RunFailed."""
    request = Request(
        artifacts=load(bundle), devices=[known.resolve(subject.recipe.device)], settings=BenchSettings(),
        out=bundle.parent / "runs", ask=getpass, listen=listen,
        targets=tuple(dict.fromkeys(result.target for result in Bundle.load(bundle).manifest.results)),
    )  # fmt: skip
    (run,) = Benchmark(request).run()
    times: dict[tuple[str, str], float] = {}
    for result in run.results:
        launches = result.measurement.launches if result.measurement else ()
        samples = [sample for launch in launches for sample in launch.samples_ns]
        if samples:
            times[result.subject.target, result.subject.format] = median(samples) / 1e6
    if not times:
        why = run.reason or "; ".join(dict.fromkeys(result.reason for result in run.results if result.reason))
        fix = f"see whether `edgeopt bench {bundle} --device {subject.recipe.device}` works"
        raise RunFailed(f"{subject.recipe.device} measured nothing", why=why, fix=fix)
    return times


def packed_bytes(path: Path) -> int:
    """Bytes of an artifact's files packed with zstd, as a download would be."""
    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    files = [path / name for name in files_below(path)] if path.is_dir() else [path]
    return sum(len(packer.compress(file.read_bytes())) for file in files) + len(packer.flush())


def _exported(subject: Subject, module: nn.Module, folder: Path, listen: Listener) -> Bundle:
    options = Options(out=folder, targets=(subject.recipe.target,) if subject.recipe.target else ())
    return export(replace(subject.model, module=module), options, listen)


def _made(bundle: Bundle, result: TargetResult) -> MadeFor:
    artifact = result.artifact
    return MadeFor(
        target=result.target, format=result.format, status=result.status, reason=result.reason, scores=result.accuracy,
        bytes=artifact.bytes if artifact else None,
        zstd_bytes=packed_bytes(bundle.artifact_path(result)) if artifact else None,
        ms=result.latency.median_ms if result.latency else None,
    )  # fmt: skip


def _concerns(subject: Subject, result: TargetResult) -> bool:
    """The target, and the fp32 twins in its formats."""
    return _timed(subject, result) or (
        result.target == TWIN and subject.profile is not None and result.format in subject.profile.formats
    )


def _timed(subject: Subject, result: TargetResult) -> bool:
    return _is_target(subject, result.target)


def _is_target(subject: Subject, name: str) -> bool:
    return subject.profile is not None and name == subject.profile.name
