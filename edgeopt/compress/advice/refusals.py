"""What the planner does not advise, and why, with figures computed on this model where that is quick."""

from edgeopt.compress.advice.advice import Refusal
from edgeopt.compress.advice.architecture import Architecture
from edgeopt.compress.advice.plans import GAIN, PROBE, Plans, Probed, attempt
from edgeopt.compress.advice.trials import Attempt, Bench, Tried, left_because
from edgeopt.compress.common import measures
from edgeopt.compress.techniques import TECHNIQUES

QUICK = 2_000_000
"""Parameters up to which packing a model with zstd and clustering its weights take seconds."""
SHARED_VALUES = 16


def refusals(bench: Bench, architecture: Architecture, plans: Plans, found: Tried | None) -> tuple[Refusal, ...]:
    """Every technique that is not in the plan ``found`` because it would not pay, or cannot be done."""
    advised = {step.technique for step in found.steps} if found else set()
    reasons = {name: _reason(name, bench, architecture, plans) for name in TECHNIQUES if name not in advised}
    return tuple(Refusal(technique=name, reason=reason) for name, reason in reasons.items() if reason)


def _reason(name: str, bench: Bench, architecture: Architecture, plans: Plans) -> str:
    if name in ("heads", "layers") and not architecture.attention:
        return f"there is no attention in this model: its work is {_work(architecture)}"
    if name in plans.probes:
        return _probed(plans.probes[name])
    if name == "magnitude":
        return _zeros(bench)
    if name == "cluster":
        return _clusters(bench)
    if name == "nm":
        return _pattern(bench, plans)
    if name == "distill":
        return plans.no_student
    if name == "early-exit":
        return (
            "it makes several artifacts, of which the application runs as many as a sample needs: the average falls, the "
            "size grows and the longest latency stays (EarlyExit, from Python)"
        )
    return ""


def _work(architecture: Architecture) -> str:
    shares = sorted(architecture.shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{share:.0%} {kind}" for kind, share in shares if share >= 0.01)


def _probed(probe: Probed) -> str:
    """ "" for a technique that gains: it was only not needed."""
    if probe.tried is None:
        return probe.error
    if probe.gain >= GAIN:
        return ""
    takes = f"takes {max(probe.gain, 0):.1%} of the work or of the bytes"
    return f"{attempt(probe.technique, PROBE).describe()} {takes}: {left_because(probe.tried.records[-1])}"


def _zeros(bench: Bench) -> str:
    reason = f"unstructured zeros give no speed: {bench.profile.runtime} multiplies by them like by any number, and stores them"
    if measures.parameters(bench.module) > QUICK:
        return reason
    tried = bench.tried((Attempt(technique="magnitude", settings={"sparsity": PROBE}),))
    return f"{reason}; {PROBE:.0%} zeros leave all {tried.after.macs:,} MACs, and {_download(bench, tried)}"


def _clusters(bench: Bench) -> str:
    if bits := bench.profile.schemes[0].palette_bits:
        return f"the export makes palettes of {2**bits} values by itself: cluster before it only to fine-tune them"
    reason = f"shared values are no speed, and the artifact for {bench.profile.name} stores every weight"
    if measures.parameters(bench.module) > QUICK:
        return reason
    tried = bench.tried((Attempt(technique="cluster", settings={"centroids": SHARED_VALUES}),))
    return f"{reason}; with {SHARED_VALUES} values a layer {_download(bench, tried)}"


def _download(bench: Bench, tried: Tried) -> str:
    before, after = measures.zstd_bytes(bench.module), measures.zstd_bytes(tried.module)
    return f"only a download of the float weights shrinks: {before:,} to {after:,} bytes with zstd"


def _pattern(bench: Bench, plans: Plans) -> str:
    if plans.pattern is None:
        return f"{bench.profile.runtime} has no kernels for 2:4: the zeros would be multiplied like any number"
    if plans.pattern.tried is None:
        return plans.pattern.error
    return "" if plans.pattern.gain else f"2:4 pays in no layer: {left_because(plans.pattern.tried.records[0])}"
