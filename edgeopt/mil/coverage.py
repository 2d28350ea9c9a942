"""Which of MIL's operators are evaluated: every core operator that coremltools knows, in each opset that changed it."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgeopt.mil import operators
from edgeopt.mil.operator import OPERATORS

ABSENT = {
    "_const_symbolic": "never in a saved package",
    "conv_quantized": "of the older neural network format, not of ML programs",
    "random_bernoulli": "its numbers are Core ML's own",
    "random_categorical": "its numbers are Core ML's own",
    "random_normal": "its numbers are Core ML's own",
    "random_uniform": "its numbers are Core ML's own",
}
"""Operators that are left out on purpose, and why."""


@dataclass(frozen=True, slots=True)
class Covered:
    """One operator. ``opsets``: those in which it came or changed (``iOS15``); ``why`` it is not evaluated, where it is not."""

    name: str
    opsets: tuple[str, ...]
    evaluated: bool
    why: str


def coverage() -> Iterator[Covered]:
    """Every core operator of the installed coremltools, by name."""
    import coremltools.converters.mil.mil.ops.defs  # noqa: F401  fills the registry
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    operators.register()
    for name, versions in sorted(SSAOpRegistry.core_ops.items()):
        opsets = dict.fromkeys(found.__module__.split(".defs.")[1].split(".")[0] for found in versions.values())
        known = OPERATORS.get(name)
        evaluated = known is not None or name == "const"
        yield Covered(name, tuple(opsets), evaluated, known.note if known else ABSENT.get(name, "" if evaluated else "not yet"))


def markdown() -> str:
    """The table: one row per operator."""
    lines = ["| operator | opsets | status |", "|---|---|---|"]
    for each in coverage():
        status = "evaluated" if each.evaluated else "not evaluated"
        lines.append(f"| `{each.name}` | {', '.join(each.opsets)} | {status}{f': {each.why}' if each.why else ''} |")
    return "\n".join(lines)
