"""Mixed precision under a gate: where integers miss it, the cheapest layers in floats with which it holds."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeopt.core import Verdict
from edgeopt.errors import ConversionError
from edgeopt.model.choices import Evaluated
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.judge import failures
from edgeopt.pipeline.prove import Proven
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.quantize.mixed import Mixture
from edgeopt.support.files import size_of
from edgeopt.support.progress import event
from edgeopt.verify import gates, verdicts

TRIES = 3
STEP_DB = 3.0
"""Half the noise: how much nearer each try is, where a gate does not say how near."""
ROOM_DB = 0.3
"""Beyond what the gate asks: a simulation on other samples foretells an artifact no closer than that."""


@dataclass(frozen=True, slots=True)
class Settled:
    """An artifact, and the user's numbers for it; ``missed``: what was tried in vain for a gate that it fails."""

    proven: Proven
    evaluated: Evaluated
    missed: str = ""


def mixed(run: ExportRun, settled: Settled, data: Data, attempt: Callable[[Job], Settled]) -> Settled:
    """``settled`` where it meets every gate, else ``attempt``'s artifact with the cheapest layers in floats that does.

    Where none does, the last that was made. Gates are the user's own; what an artifact fails besides, such as its lowering,
    floats do not mend.
    """
    job, failed = settled.proven.made.job, failures(run, settled.proven, settled.evaluated)
    missed = [verdict for verdict in failed if verdict.check in gates.GATES]
    if not failed and run.options.max_size is not None and job.scheme.integer and data.calibrated.kept:
        return _filled(run, settled, run.options.max_size, attempt)
    if not missed or too_large(missed) or not job.scheme.integer or not data.calibrated.kept:
        return settled
    why = "; ".join(map(verdicts.describe, missed))
    run.listen(event(job.name, "quantize", f"{why}: looking for layers to keep in floats"))
    with run.programs.turn():
        search = run.programs.search(job)
        start = search.db(())
    last, nearness, told = settled, start, ""
    for number in range(1, TRIES + 1):
        goal = _goal(run, last, nearness, start + number * STEP_DB)
        with run.programs.turn():
            mixture = search.cheapest(goal)
        if mixture is None or not mixture.kept:
            told = told or f"no layers in floats but all of them bring it {goal - start:.1f} dB nearer"
            break
        try:
            within, last = last, attempt(replace(job, kept=_kept(mixture, why)))
        except ConversionError as error:  # its file is gone or half made
            return replace(attempt(last.proven.made.job), missed=f"with {_described(mixture)}, {error.what}")
        nearness, told = mixture.db, f"with {_described(mixture)}"
        left = failures(run, last.proven, last.evaluated)
        if not left:
            return last
        if too_large(left):
            return _contradicted(run, within, last, told, attempt)
    return replace(last, missed=told)


def too_large(failed: list[Verdict]) -> bool:
    """Whether the file has more than ``--max-size``."""
    return any(verdict.check == "max_size" for verdict in failed)


def _filled(run: ExportRun, settled: Settled, most: int, attempt: Callable[[Job], Settled]) -> Settled:
    """``settled``, or its artifact with the layers in floats that take the most noise away within ``most`` bytes.

    The file that was made says what fits: one that is too large leaves less room to the next try. One that fails more, or is
    no nearer to the model, does not take its place.
    """
    job, size = settled.proven.made.job, size_of(settled.proven.made.path)
    allowed = {one.check for one in failures(run, settled.proven, settled.evaluated)}
    with run.programs.turn():
        search = run.programs.search(job)
    room, tried = float(most - size), False
    for _ in range(TRIES):
        with run.programs.turn():
            mixture = search.within(room)
        if mixture is None:
            break
        tried = True
        try:
            found = attempt(replace(job, kept=_kept(mixture, f"{most - size:,} bytes are left of --max-size")))
        except ConversionError:  # its file is gone or half made
            break
        failed = failures(run, found.proven, found.evaluated)
        if {one.check for one in failed} <= allowed and _nearness(found) > _nearness(settled):
            return found
        if not too_large(failed):
            break
        room *= min(0.8, (most - size) / (size_of(found.proven.made.path) - size))
    return attempt(job) if tried else settled


def _nearness(settled: Settled) -> float:
    proof = settled.proven.proof
    return (proof.numbers.get("sqnr_float") or 0.0) if proof is not None else 0.0


def _contradicted(
    run: ExportRun, within: Settled, over: Settled, told: str, attempt: Callable[[Job], Settled]
) -> Settled:  # fmt: skip
    """The nearest artifact within the size, with the size at which the other gates hold: that of ``over``."""
    size, most = size_of(over.proven.made.path), run.options.max_size or 0
    others = [one for one in failures(run, over.proven, over.evaluated) if one.check != "max_size"]
    best = _filled(run, attempt(within.proven.made.job), most, attempt)
    if not failures(run, best.proven, best.evaluated):
        return best
    needed = f"{told} the gate holds at {size:,} bytes: give --max-size {size}B, or a lower gate"
    still = f"{told} it has {size:,} bytes, and still {'; '.join(map(verdicts.describe, others))}"
    return replace(best, missed=f"this is the best reached within --max-size {most:,} bytes; {still if others else needed}")


def _goal(run: ExportRun, last: Settled, simulated: float, stepped: float) -> float:
    """How near the next mixture is to be by the simulation, which was at ``simulated`` for the last artifact, dB.

    As near as the gate says, by how far the last artifact was from it; where the gate says nothing of that, ``stepped``.
    """
    missed = {one.check for one in failures(run, last.proven, last.evaluated)}
    proof = last.proven.proof
    found = proof.numbers.get("sqnr_float") if proof is not None else None
    needed = run.options.min_sqnr
    if "min_sqnr" not in missed or needed is None or found is None:
        return stepped
    asked = simulated + needed - found + ROOM_DB
    return max(asked, stepped) if len(missed) > 1 else asked


def _kept(mixture: Mixture, why: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (one.name, f"kept for the gate ({why}): in integers alone it leaves {one.alone:.1f} dB of the output")
        for one in mixture.kept
    )


def _described(mixture: Mixture) -> str:
    layers = ", ".join(dict.fromkeys(one.layer or one.name for one in mixture.kept[:3]))
    more = f" and {len(mixture.kept) - 3} more" if len(mixture.kept) > 3 else ""
    return f"{len(mixture.kept)} operators in floats ({layers}{more}; {mixture.cost:.0%} of what integers save)"
