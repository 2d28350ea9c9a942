"""What a module keeps between calls: an artifact keeps nothing, so an output that depends on it cannot be exported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from edgeopt.capture.exporting import line_of_effect
from edgeopt.capture.module_copy import copied
from edgeopt.capture.unlike import Sample
from edgeopt.capture.witness import Witness
from edgeopt.errors import CaptureError
from edgeopt.model.user_code import line_in

_DEEPEST = 4
_OWN = {"_parameters", "_buffers", "_modules", "training"}  # nn.Module's: read through its methods
_FIX = (
    "make it an input and an output: forward(self, x, state) that returns (y, new_state), with an example of both; "
    "the caller hands each call's state to the next"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the user's module does on its example and then on other inputs, run one after the other."""

    names: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    written: tuple[str, ...]
    """Attributes that forward changed, such as ``norm.num_batches_tracked``."""


def observe(witness: Witness, example: Sample, others: list[Sample]) -> Observed:
    """Runs the module on ``example``, on ``others`` and again on ``example``; the outputs are those of the first run.

    Raises CaptureError where the second answer is another one: what happened in between, or chance, has a part in it.
    """
    module = copied(witness.module)
    names, outputs = witness.run(module, example)
    for sample in others:
        try:
            witness.run(module, sample)
        except (Exception, SystemExit):  # a model need not take such inputs
            continue
    again = witness.run(module, example)[1]
    written = tuple(changed(witness.module, module))
    if not same(outputs, again) and written and same(outputs, witness.run(copied(witness.module), example)[1]):
        raise depends_on_state(written, line_of_effect(witness, example))
    if not same(outputs, again) or not same(outputs, witness.run(copied(witness.module), example, seed=1)[1]):
        why = "run twice on the example inputs, its outputs differ: it draws random numbers, or reads what changes outside it"
        fix = "switch dropout and sampling off in eval mode (training=self.training), or make the random tensor an input"
        line = line_of_effect(witness, example)
        raise CaptureError(f"the model gives another answer each time{f': see {line}' if line else ''}", why=why, fix=fix)
    return Observed(names, outputs, written)


def depends_on_state(written: Sequence[str], line: str) -> CaptureError:
    """The refusal of a module whose outputs depend on what earlier calls wrote."""
    what = f"forward writes {', '.join(written)}{f' at {line}' if line else ''} and its outputs depend on it"
    why = "an artifact keeps nothing between calls: it would hold the state after the example for ever"
    return CaptureError(what, why=why, fix=_FIX)


def same(first: Sequence[Tensor], second: Sequence[Tensor], rtol: float = 1e-6) -> bool:
    """Whether two runs of one module on one input agree, by default as runs of the same kernels do."""
    if [value.shape for value in first] != [value.shape for value in second]:
        return False
    return all(
        torch.allclose(a, b, rtol=rtol, atol=rtol * _largest(a), equal_nan=True) for a, b in zip(first, second, strict=True)
    )


def _largest(value: Tensor) -> float:
    finite = value[torch.isfinite(value)] if value.is_floating_point() else value
    return float(finite.abs().max()) if value.is_floating_point() and finite.numel() else 0.0


def changed(before: nn.Module, after: nn.Module) -> Iterator[str]:
    """Dotted names of what differs between a module and its copy that was run."""
    ran = dict(after.named_modules())
    for name, module in before.named_modules():
        prefix, other = f"{name}." if name else "", ran[name]
        for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if not _equal(value, getattr(other, key, None)):
                yield prefix + key
        plain, found = module.__dict__, other.__dict__
        for key in dict.fromkeys((*plain, *found)):
            if key not in _OWN and not _equal(plain.get(key), found.get(key)):
                yield prefix + key


def _equal(a: Any, b: Any, depth: int = 0) -> bool:
    """Whether two attributes hold equal tensors and numbers; what is neither, nor holds any, counts as equal."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
        return alike and bool(torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach())))
    if type(a) is not type(b):
        return False
    if isinstance(a, int | float | str | None):
        return bool(a == b)
    if depth == _DEEPEST or isinstance(a, nn.Module | Graph):
        return True
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key], depth + 1) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    return _equal(getattr(a, "__dict__", None), getattr(b, "__dict__", None), depth + 1)


def refuse_frozen_state(graph: Graph, written: Mapping[str, str], outputs: Sequence[Any]) -> None:
    """Refuses a functional graph in which the value that a written buffer had before the call reaches an output.

    ``written``: names of the state by the names of the graph's placeholders for it.
    """
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in written and _reached(node) & set(outputs):
            lines = (line_in(str(user.meta.get("stack_trace", ""))) for user in node.users)
            raise depends_on_state([written[node.name]], next(filter(None, lines), ""))


def _reached(start: Node) -> set[Node]:
    found = {start}
    for node in start.graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
