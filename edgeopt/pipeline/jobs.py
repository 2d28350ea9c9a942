"""The work of one export, cut into jobs: one per target and format, each with its plan; equal ones share a conversion."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch.fx import GraphModule

from edgeopt.core import TWIN, Format, Quality, QuantScheme, RefusedScheme, to_data
from edgeopt.quantize.graph import operators
from edgeopt.targets.schema import TargetProfile

DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Job:
    """One target, one format, one scheme of the profile."""

    profile: TargetProfile
    format: Format
    scheme: QuantScheme
    io_float: bool
    strict: bool = False
    """Whether the profile's first scheme must not give way to others."""
    quality: Quality = "balanced"
    refused: tuple[RefusedScheme, ...] = ()
    """The profile's schemes before this one, and why they were given up."""
    kept: tuple[tuple[str, str], ...] = ()
    """Operators, by the names of their outputs, that stay in floats though they need not, each with the reason."""

    @property
    def name(self) -> str:
        """``target/format``: how progress and messages call it."""
        return f"{self.profile.name}/{self.format}"

    @property
    def variant(self) -> str:
        """Which program it starts from: the dense one, or the one with this sparsity."""
        return DENSE if self.profile.sparsity is None else repr(self.profile.sparsity)

    @property
    def needs_data(self) -> bool:
        """Whether the artifact depends on the calibration data, by its ranges or by the weights that pruning leaves."""
        return self.scheme.integer or self.profile.sparsity is not None

    @property
    def alternatives(self) -> tuple[object, ...]:
        """What may lead to another scheme, and to which: the schemes that are left and the checks; nothing for the last."""
        return (self.left, self.profile.checks) if self.left else ()

    @property
    def left(self) -> tuple[QuantScheme, ...]:
        """The schemes that the profile prefers less than this one."""
        return self.profile.schemes[self.profile.schemes.index(self.scheme) + 1 :]

    @property
    def without_strict(self) -> str:
        """What becomes of the target where its scheme is refused and the user is not strict; "" where it has no other."""
        others = ", then ".join(scheme.describe() for scheme in self.left)
        return f"without --strict-scheme {others} is tried in its place" if others else ""

    def conversion(self) -> dict[str, object]:
        """Everything in the profile that the converted bytes depend on: jobs with equal ones share a conversion."""
        profile = self.profile
        operators = profile.operators if self.io_float else replace(profile.operators, float_last=())
        return {
            "format": self.format,
            "scheme": to_data(self.scheme),
            "io_float": self.io_float,
            "io": to_data(profile.io),
            "limits": to_data(profile.limits),
            "operators": to_data(replace(operators, table=None)),
            "costs": to_data(profile.costs),
            "variant": self.variant,
            "kept": sorted(name for name, _ in self.kept),
            **({"quality": self.quality} if self.scheme.integer else {}),
        }

    def fallback(self, refusal: str) -> "Job | None":
        """The same target with the profile's next scheme, where it has one; the refusal is recorded."""
        if not self.left:
            return None
        refused = (*self.refused, RefusedScheme(scheme=self.scheme, reason=refusal))
        return replace(self, scheme=self.left[0], refused=refused, kept=())


def jobs_of(
    profiles: Iterable[TargetProfile], io_float: bool, strict: bool = False, quality: Quality = "balanced"
) -> list[Job]:
    """Every artifact to make, the twins first."""
    ordered = sorted(profiles, key=lambda profile: profile.name != TWIN)
    return [
        Job(profile, fmt, profile.schemes[0], float_io(profile, io_float), strict, quality)
        for profile in ordered
        for fmt in profile.formats
    ]


def float_io(profile: TargetProfile, wanted: bool) -> bool:
    """Whether the artifact takes and gives floats: the profile's own choice, or the user's where it can be chosen."""
    own = profile.io.float_type.startswith("float")
    return own or (wanted and "float32" in profile.io.selectable)


def calibrated_values(module: GraphModule, jobs: Iterable[Job]) -> set[str]:
    """Names of the values whose ranges some integer job may need: not those inside a pattern that every job fuses."""
    fusings = {frozenset(job.profile.operators.fused) for job in jobs if job.scheme.integer}
    ops = [op for fused in fusings for op in operators(module.graph, fused)]
    values = {node.name for op in ops for node in (*op.operands, op.output)}
    return values | {node.name for node in module.graph.nodes if node.op == "placeholder"}
