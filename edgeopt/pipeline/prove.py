"""The proof of an artifact: its outputs against those of the user's own module, where something here can run it."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt import registry
from edgeopt.core import from_data, to_data
from edgeopt.errors import UnknownOperator
from edgeopt.pipeline.convert import Made, one_scheme
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.requests import CheckRequest
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support.cache import Cache
from edgeopt.support.files import sha256_of
from edgeopt.verify import prover, verdicts
from edgeopt.verify.reference_outputs import ReferenceOutputs
from edgeopt.verify.steadiness import steadiness
from edgeopt.verify.verdicts import Proof


@dataclass(frozen=True, slots=True)
class Proven:
    """A converted artifact and its proof; ``proof`` None where nothing here could run it, with why in ``unproven``."""

    made: Made
    proof: Proof | None
    unproven: str = ""


def prove(run: ExportRun, made: Made, data: Data) -> Proven:
    """Compares the artifact with the user's own module and with its program, in a worker.

    The numbers depend on what the user's own module gives, and on which inputs; the bytes of the artifact do not.
    So they stand in the cache under a key of their own.
    """
    converter = registry.converter(made.job.format)
    if not converter.runs_here:
        return Proven(made, None, "its format has no runtime on this machine")
    key = Cache.key("proof", made.key, sha256_of(made.path), data.digest, prover.kernels(converter))
    if (stored := run.cache.get_json(key)) is not None:
        return Proven(made, from_data(Proof, stored))
    try:
        proof = run.ask("check", made.job.profile.name, _request(run, made, data), Proof)
    except UnknownOperator as error:
        return Proven(made, None, error.message())
    if exact(made.job):
        proof = _excused(run, proof, made.job, data.references)
    run.cache.put_json(key, to_data(proof))
    return Proven(made, proof)


def _request(run: ExportRun, made: Made, data: Data) -> CheckRequest:
    """The program is written now where the artifact came from the cache without its numbers."""
    job = made.job
    return CheckRequest(
        format=job.format, profile=one_scheme(job), program=made.program or run.programs.saved(job)[0], out=made.path,
        references=data.references, quantized=job.scheme.quantized, exact=exact(job), real=data.calibrated.real,
        held_out=data.calibrated.held_out_of > 0, further_s=data.further_s,
    )  # fmt: skip


def exact(job: Job) -> bool:
    """Whether nothing but rounding of float32 may differ."""
    return job.scheme.activation == job.scheme.weight == "float32"


def _excused(run: ExportRun, proof: Proof, job: Job, references: Path) -> Proof:
    """Where a float32 artifact fails, with how near the model stays to itself: nothing can be nearer."""
    if not verdicts.failures(verdicts.judge(proof, job.profile.checks)):
        return proof
    with run.programs.turn():
        excused = replace(proof, steady=steadiness(run.captured, ReferenceOutputs.read(references)))
    return proof if verdicts.failures(verdicts.judge(excused, job.profile.checks)) else excused
