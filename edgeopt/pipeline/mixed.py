"""Mixed precision under a gate: where integers miss it, the cheapest layers in floats with which it holds."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeopt.errors import ConversionError
from edgeopt.model.choices import Evaluated
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.judge import failures
from edgeopt.pipeline.prove import Proven
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.quantize.mixed import Mixture
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
    if not missed or not job.scheme.integer or not data.calibrated.kept:
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
            last = attempt(replace(job, kept=_kept(mixture, why)))
        except ConversionError as error:  # its file is gone or half made
            return replace(attempt(last.proven.made.job), missed=f"with {_described(mixture)}, {error.what}")
        nearness, told = mixture.db, f"with {_described(mixture)}"
        if not failures(run, last.proven, last.evaluated):
            return last
    return replace(last, missed=told)


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
