"""From a job to its artifact: quantized here, lowered in a worker, or taken from the cache as it was made before."""

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeopt import registry
from edgeopt.core import Plan, from_data, from_json, to_data, to_json
from edgeopt.model.fingerprint import own_code
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.plan import Chosen, plan_of
from edgeopt.pipeline.requests import ConvertRequest, Facts
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support.cache import Cache
from edgeopt.support.files import copy_tree, remove, sha256_of
from edgeopt.support.progress import event
from edgeopt.support.untrusted import RECORD_BYTES, read
from edgeopt.targets.schema import TargetProfile

FACTS = "facts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A converted artifact before it is proven: where it is, and all that was found out about it."""

    job: Job
    path: Path
    plan: Plan
    facts: Facts
    program: Path | None
    """The program it was lowered from; None where the artifact came from the cache."""
    key: str
    """Of the artifact in the cache."""


def convert(run: ExportRun, job: Job, data: Data | None) -> Made:
    """The artifact of ``job`` in its target's folder; ``data`` None is enough for a job that needs none.

    Raises ConversionError (NotApplicable where there is nothing to quantize) and what a worker's end raises.
    """
    out = run.writer.folder(job.profile.name) / f"model{registry.converter(job.format).suffix}"
    key = _key(run, job, data)
    stored = _stored(run.cache, key, out)
    if stored is not None:
        run.listen(event(job.name, "convert", "unchanged: from the cache"))
        chosen, facts = stored
        return Made(job=job, path=out, plan=plan_of(job, run.captured, chosen), facts=facts, program=None, key=key)
    run.listen(event(job.name, "quantize" if job.scheme.quantized else "plan", job.scheme.describe()))
    program, chosen = run.programs.saved(job)
    run.listen(event(job.name, "convert"))
    request = ConvertRequest(
        format=job.format, profile=one_scheme(job), program=program, out=out, io_float=job.io_float,
        output_names=tuple(spec.name for spec in run.captured.outputs),
    )  # fmt: skip
    facts = run.ask("convert", job.profile.name, request, Facts)
    with run.cache.building(key) as folder:
        copy_tree(out, folder / out.name)
        # Not the plan: its reasons belong to the way that led here, which the key does not cover.
        kept = {"facts": to_data(facts), "chosen": to_data(chosen), "sha256": sha256_of(out)}
        (folder / FACTS).write_text(to_json(kept))
    return Made(job=job, path=out, plan=plan_of(job, run.captured, chosen), facts=facts, program=program, key=key)


def promise(run: ExportRun, job: Job, data: Data | None, ahead: Executor) -> None:
    """Lets ``ahead`` make the program of ``job`` before its turn, where the cache has no artifact of it."""
    if run.cache.get(_key(run, job, data)) is None:
        run.programs.promise(job, ahead)


def one_scheme(job: Job) -> TargetProfile:
    """The profile with the job's scheme alone: converters take the first."""
    return replace(job.profile, schemes=(job.scheme,))


def _stored(cache: Cache, key: str, out: Path) -> tuple[Chosen, Facts] | None:
    """What is known of the artifact under ``key``, copied to ``out``; None where it is not there as it was made."""
    entry = cache.get(key)
    if entry is None or not cache.link(key, out.name, out):
        return None
    try:
        stored = from_json(dict[str, Any], read(entry / FACTS, RECORD_BYTES))
        if stored["sha256"] == sha256_of(out):
            return from_data(Chosen, stored["chosen"]), from_data(Facts, stored["facts"])
    except (OSError, ValueError, KeyError):  # anybody may have written it: then it counts as missing
        pass
    remove(out)
    return None


def _key(run: ExportRun, job: Job, data: Data | None) -> str:
    digest = data.calibrated.digest if job.needs_data and data else ""
    tools = registry.converter(job.format).tool_versions()
    return Cache.key(own_code(), run.model, digest, job.conversion(), tools)
