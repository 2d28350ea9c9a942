"""``edgeopt plan``: what would be made for each target, and the reason for every choice."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Console

from edgeopt.core import KeptFloat, Plan, SparseLayer
from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted

FIRST_FEW = 3


def print_plans(plans: Iterable[Plan], *, verbose: bool = False, console: Console | None = None) -> None:
    """Prints each plan; of the layers that share a reason the first few, or all where ``verbose``."""
    console = console or output()
    limit = None if verbose else FIRST_FEW
    for plan in plans:
        console.print()
        paragraph(console, f"{plan.target}/{plan.format}: {plan.scheme.describe()}{_shares(plan)}", style="bold")
        for decision in plan.decisions:
            paragraph(console, f"{decision.subject}: {decision.choice}, because {decision.reason}", indent=2)
        _print_kept(console, plan.kept_float, limit)
        _print_sparse(console, plan.sparse_layers, limit)
    if not verbose and any(len(plan.kept_float) + len(plan.sparse_layers) > FIRST_FEW for plan in plans):
        console.print()
        paragraph(console, "--verbose lists every layer", style="dim")


def _shares(plan: Plan) -> str:
    if plan.integer_weights is None or plan.integer_macs is None:
        return ""
    return f", for {plan.integer_weights:.0%} of the weights and {plan.integer_macs:.0%} of the work"


def _print_kept(console: Console, kept: tuple[KeptFloat, ...], limit: int | None) -> None:
    reasons: dict[str, list[KeptFloat]] = {}
    for layer in kept:
        reasons.setdefault(layer.reason, []).append(layer)
    for reason, layers in reasons.items():
        kinds = ", ".join(f"{kind} x{count}" for kind, count in Counter(layer.operator for layer in layers).most_common())
        paragraph(console, f"in float: {counted(len(layers), 'operator')} ({kinds}), because {reason}", indent=2)
        _print_layers(console, [layer.layer for layer in layers], limit)


def _print_sparse(console: Console, considered: tuple[SparseLayer, ...], limit: int | None) -> None:
    reasons: dict[tuple[bool, str], list[str]] = {}
    for layer in considered:
        reasons.setdefault((layer.pruned, layer.reason), []).append(layer.layer)
    for (pruned, reason), layers in reasons.items():
        because = f", because {reason}" if reason else ""
        paragraph(console, f"{'pruned' if pruned else 'dense'}: {counted(len(layers), 'layer')}{because}", indent=2)
        _print_layers(console, layers, limit)


def _print_layers(console: Console, layers: list[str], limit: int | None) -> None:
    names = list(dict.fromkeys(layers))
    more = f" and {len(names) - limit} more" if limit is not None and len(names) > limit else ""
    paragraph(console, ", ".join(names[:limit]) + more, indent=4, style="dim")
