"""How much a model's outputs change when a part of it is switched off: the measure behind dropping heads and layers."""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

from edgeopt.compress.common.comparing import unequal
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.technique import Context
from edgeopt.errors import CompressionError, ForwardError, NotFiniteError, did_you_mean
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause


def samples(context: Context, most: int) -> list[Batch]:
    """The first ``most`` batches of the context's data, without what follows the model's own inputs (labels)."""
    args, kwargs = call_arguments(context.example_inputs)
    found = []
    for batch in islice(context.data(), most):
        given_args, given_kwargs = call_arguments(batch)
        found.append(
            {name: given_kwargs[name] for name in kwargs if name in given_kwargs} if kwargs else given_args[: len(args)]
        )
    return found


def outputs(module: nn.Module, batch: Batch) -> list[Tensor]:
    """All floating outputs of one call in a fixed order. Raises ForwardError where it raises."""
    args, kwargs = call_arguments(batch)
    try:
        return list(_tensors(module(*args, **kwargs)))
    except Exception as error:
        fix = "check that it runs on the example inputs and on the data"
        raise ForwardError("the model raised in forward", why=cause(error), fix=fix) from error


def change(found: list[Tensor], reference: list[Tensor]) -> float:
    """Sum over the outputs of the squared difference, each relative to the reference's own square.

    Infinite entries of the reference (scores that are masked out) do not count. Raises NotFiniteError where it holds NaN.
    """
    total = 0.0
    for value, wanted in zip(found, reference, strict=True):
        if bool(wanted.isnan().any()):
            fix = "look for the layer in which they begin: nothing can be measured on such outputs"
            raise NotFiniteError("the model's outputs hold NaN", fix=fix)
        finite = wanted.isfinite()
        known = wanted[finite].double()
        total += float((value[finite].double() - known).square().sum() / known.square().sum().clamp_min(1e-30))
    return total


def firsts(module: nn.Module, example: Batch) -> list[tuple[str, Batch, Tensor]]:
    """The first output on the example inputs, and on inputs unlike these as far as the model takes them, with a name of each.

    The first tells: attention weights, which some models give as well, are others with fewer heads.
    """
    found = [("the example inputs", example, outputs(module, example)[0])]
    for name, batch in unlike(example):
        try:
            found.append((f"inputs {name}", batch, outputs(module, batch)[0]))
        except ForwardError:
            continue
    return found


def differing(module: nn.Module, expected: list[tuple[str, Batch, Tensor]]) -> str:
    """Where the module's first output is not the one of :func:`firsts`; "" where it is. Raises ForwardError where it raises."""
    for name, batch, wanted in expected:
        if wrong := unequal(tuple(outputs(module, batch)[:1]), (wanted,)):
            return f"on {name} {wrong}"
    return ""


def within(module: nn.Module, names: Collection[str]) -> frozenset[str]:
    """Paths of the modules that ``names`` name, and of all that lie in these. Raises CompressionError for an unknown one."""
    known = dict(module.named_modules())
    for name in names:
        if name not in known:
            fix = did_you_mean(name, known) or "use paths as in the report of compression"
            raise CompressionError(f"exclude names {name!r}, which the model does not have", fix=fix)
    return frozenset(path for path in known for name in names if path == name or path.startswith(f"{name}."))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Key-value caches, which are objects of their own, and integers tell nothing and are left out."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
