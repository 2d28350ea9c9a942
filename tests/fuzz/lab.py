"""Exports networks with edgeopt and compares every artifact with the networks themselves."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import nn

from edgeopt import registry
from edgeopt.bundle.bundle import BundleWriter
from edgeopt.converters import warm
from edgeopt.core import TargetResult
from edgeopt.errors import EdgeoptError, NotApplicable
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.hosts import preload
from edgeopt.pipeline.stages import make
from edgeopt.support.cache import Cache
from edgeopt.support.log_diversion import diverted
from edgeopt.support.progress import ignore
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile
from edgeopt.worker.client import WorkerHost
from tests.fuzz import compare
from tests.fuzz.network import Example, Network, joined, joined_samples
from tests.fuzz.words import fault_of_message

CALIBRATION, TRIED = 12, 6
LIMITS_DB = {"float32": 60.0, "float16": 30.0}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. ``network`` is the index among those that were exported together, if known."""

    target: str
    format: str
    kind: str
    detail: str
    network: int | None = None

    @property
    def place(self) -> str:
        return f"{self.target}/{self.format}"


@dataclass(frozen=True)
class Outcome:
    """What became of one export: ``refused`` holds the clean refusals, which are no findings, by target and format."""

    findings: tuple[Finding, ...]
    refused: tuple[Finding, ...] = ()
    made: int = 0


class Lab:
    """Exports in workers that are started once: what an export costs most is the import of the converters."""

    def __init__(self) -> None:
        self._host = _Kept(preload(registry.formats()))
        self._folder = Path(tempfile.mkdtemp(prefix="edgeopt-fuzz-"))

    def __enter__(self) -> Self:
        self._host.start()
        warm.composite_operators()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._host.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def try_out(self, networks: Sequence[Network], targets: Sequence[str]) -> Outcome:
        """Exports the networks together to the targets, and compares what comes out."""
        module, example, calibration = _together(networks)
        out = self._folder / "bundle"
        shutil.rmtree(out, ignore_errors=True)
        model = Model(module, example, calibration=calibration)
        try:
            results = self._export(model, targets, out)
        except EdgeoptError as error:
            return _refusal(networks, targets[0], "model", error.message(), type(error).__name__)
        except Exception as error:
            return Outcome((Finding(targets[0], "model", "crash", _described(error)),))
        outcomes = [_judged(networks, result, out) for result in results]
        return Outcome(
            tuple(finding for outcome in outcomes for finding in outcome.findings),
            tuple(finding for outcome in outcomes for finding in outcome.refused),
            sum(outcome.made for outcome in outcomes),
        )

    def _export(self, model: Model, targets: Sequence[str], out: Path) -> tuple[TargetResult, ...]:
        """As ``edgeopt.export`` does it, but for these targets alone: without the fp32 twins and without times."""
        options = Options(out=out, targets=tuple(targets), jobs=1, use_cache=False)
        with BundleWriter(out) as writer, diverted(writer.log_folder / "edgeopt.log"):
            profiles = [profile_of(target) for target in targets]
            manifest, _ = make(model, options, ignore, profiles, self._host, writer, Cache(enabled=False))
            writer.commit(manifest)
        return manifest.results


class _Kept(WorkerHost):
    """A host that outlives the exports that use it."""

    def close(self) -> None:
        """What an export does at its end: nothing here."""

    def end(self) -> None:
        """As ``close`` of any other host."""
        super().close()


def profile_of(target: str) -> TargetProfile:
    """The profile of ``target``, or of ``target/format`` with that format alone."""
    name, _, fmt = target.partition("/")
    profile = loader.load(name)
    return replace(profile, formats=tuple(each for each in profile.formats if not fmt or each == fmt))


def _together(networks: Sequence[Network]) -> tuple[nn.Module, Example, list[Example]]:
    if len(networks) == 1:
        return networks[0].module(), networks[0].samples(1)[0], networks[0].samples(CALIBRATION, 1)
    module, examples = joined(networks)
    return module, examples[0], joined_samples(networks, CALIBRATION, 1)


def _refusal(networks: Sequence[Network], target: str, fmt: str, message: str, error: str) -> Outcome:
    fault = fault_of_message(message, networks)
    finding = Finding(target, fmt, fault or "refused", f"{error}: {message}")
    return Outcome((finding,)) if fault else Outcome((), (finding,))


def _judged(networks: Sequence[Network], result: TargetResult, out: Path) -> Outcome:
    place = (result.target, result.format)
    if result.artifact is None:
        nothing = result.status == "skipped" or result.error == NotApplicable.__name__
        return Outcome(()) if nothing else _refusal(networks, *place, result.reason, result.error)
    if result.status == "unverified":
        return Outcome((), (Finding(*place, "unverified", result.reason),))
    try:
        found = _compared(networks, result, out)
    except Exception as error:
        return Outcome((Finding(*place, "unusable", _described(error)),))
    if result.status == "failed":
        found = _honest(networks, result, found)
    notes = [warning for warning in result.warnings if "was refused" in warning]
    faults = [(fault_of_message(note, networks), note) for note in notes]
    found += [Finding(*place, fault, note) for fault, note in faults if fault]
    return Outcome(tuple(found), made=1)


def _honest(networks: Sequence[Network], result: TargetResult, found: list[Finding]) -> list[Finding]:
    """A failure that was said is a finding where lowering is at fault: it changed the program, or a float artifact is wrong."""
    checks = {verdict.check: verdict for verdict in result.verdicts if not verdict.passed}
    lowered = any(check.startswith("sqnr_program") for check in checks)
    if len(networks) > 1:
        return [replace(each, kind=f"said {each.kind}") for each in found] or [_said(result)]
    if result.plan is not None and result.plan.scheme.integer and not lowered:
        return [replace(each, kind="avoidable") for each in found] if _avoidable(networks[0]) else []
    return [_said(result)]


def _avoidable(network: Network) -> bool:
    """Whether plain 8-bit rounding of every value loses no output and no channel: then a planner need not lose one."""
    module, samples = network.module(), network.samples(TRIED, 2)
    return not compare.silent(compare.run(module, samples), compare.run(module, samples, compare.eighth))


def _said(result: TargetResult) -> Finding:
    return Finding(result.target, result.format, "failed", result.reason)


def _compared(networks: Sequence[Network], result: TargetResult, out: Path) -> list[Finding]:
    assert result.artifact is not None and result.plan is not None
    predictor = registry.converter(result.format).load(out / result.artifact.path, threads=1)
    samples = joined_samples(networks, TRIED, 2)
    outputs = [predictor(*(value.numpy() for value in sample)) for sample in samples]
    found, position = [], 0
    for index, network in enumerate(networks):
        count = len(network.outputs)
        own = [tuple(output[position : position + count]) for output in outputs]
        position += count
        for loss in _losses(network, own, result):
            if not _said_in_warnings(loss, result, len(networks)):
                found.append(Finding(result.target, result.format, loss.kind, str(loss), index))
    return found


def _losses(network: Network, outputs: compare.Outputs, result: TargetResult) -> list[compare.Loss]:
    assert result.plan is not None
    module, samples = network.module(), network.samples(TRIED, 2)
    reference = compare.run(module, samples)
    scheme = result.plan.scheme
    if scheme.integer or scheme.quantized:
        return compare.silent(reference, outputs)
    limit = LIMITS_DB[scheme.activation]
    return compare.losses(reference, outputs, limit, compare.noise(module, samples, limit))


def _said_in_warnings(loss: compare.Loss, result: TargetResult, together: int) -> bool:
    """Whether a warning names the loss: its output, or the whole artifact where it has no other output."""
    names = [spec.name for spec in result.artifact.outputs] if result.artifact else []
    named = names[loss.output] if loss.output < len(names) and together == 1 else "output"
    words = re.compile(
        rf"\b{re.escape(named)}\b|\boutput {loss.output}\b" + ("|far from the float model" if loss.axis is None else "")
    )
    return any(words.search(warning) for warning in result.warnings)


def _described(error: BaseException) -> str:
    import traceback

    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/edgeopt/" in frame.filename or "converters" in frame.filename
    ]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    return f"{type(error).__name__}: {str(error).strip()[:300]}{place}"
