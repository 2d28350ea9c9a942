"""What becomes of the axes that an exported program leaves open: an artifact has one size of each, the example's."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from edgeopt.core import Decision
from edgeopt.model.signature import Signature

_SUBJECT = "dynamic shape"
_NO_BOUND = 2**31
"""From here on a bound is torch's own infinity."""


def fixed_axes(program: ExportedProgram, signature: Signature) -> Iterator[Decision]:
    """A decision for each axis of the inputs that ``program`` takes in several sizes."""
    names = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    for node, spec in zip(inputs, signature.specs, strict=False):
        for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
            if isinstance(size, torch.SymInt):
                takes = _sizes(program.range_constraints.get(size.node.expr))
                reason = f"the program takes {takes}; an artifact has the sizes of the example inputs, and takes no others"
                yield Decision(subject=_SUBJECT, choice=f"axis {axis} of {spec.name} is {spec.shape[axis]}", reason=reason)


def warnings(decisions: Iterable[Decision]) -> list[str]:
    """Those of :func:`fixed_axes` among ``decisions``, as sentences: who runs the artifact with another size is refused."""
    return [f"{one.choice}: {one.reason}" for one in decisions if one.subject == _SUBJECT]


def _sizes(allowed: Any) -> str:
    """A range as torch.export keeps it; none for an axis whose size is computed from others."""
    try:
        low, high = int(allowed.lower), int(allowed.upper)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return "other sizes too"
    return f"{low} to {high}" if high < _NO_BOUND else "other sizes too"
