"""A network as a chain of layers, each taking what the one before it gives: found by watching one call, not from its class.

Containers are opened as far as that holds; a residual block or an encoder layer stays whole. Small steps that ``forward``
itself takes between layers (flatten, ReLU, pooling, the mean over tokens or the first of them) become layers of their own.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.distill.lessons import imitated
from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause

TOLERANCE = 1e-4
"""Fused kernels round otherwise than the layers one by one."""
TRIALS = 3
"""Random inputs, beside the example, on which the chain must compute what the module does."""


class TokenMean(nn.Module):
    """float [N, tokens, width] -> [N, width]."""

    def forward(self, states: Tensor) -> Tensor:
        return states.mean(1)


class FirstToken(nn.Module):
    """float [N, tokens, width] -> [N, width]: the class token."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, 0]


class Link(NamedTuple):
    """One layer of the chain; ``path`` is "" for a step of ``forward`` itself."""

    path: str
    module: nn.Module


@dataclass(slots=True)
class _Call:
    """A call of a module while the network ran once. ``given`` is None where it is not the only tensor."""

    path: str
    module: nn.Module
    given: Tensor | None
    result: Any = None
    calls: "list[_Call]" = field(default_factory=list)


def chain(module: nn.Module, example_inputs: Batch) -> list[Link]:
    """The layers of ``module`` (its own, not copies), whose composition computes the same in eval mode.

    Raises CompressionError where ``module`` takes several inputs, or is no chain of at least two layers.
    """
    args, kwargs = call_arguments(example_inputs)
    if _only((args, kwargs)) is None:
        fix = "wrap it in a module of one input: masks and the like can be constants there"
        raise CompressionError("early exits need a network with one input tensor", fix=fix)
    with evaluating(module):
        root = _watched(module, args, kwargs)
        links = list(_links(root, imitated(root.result)))
        if len(links) < 2 or not _equal(links, module, args, kwargs):
            why = "its layers do not simply follow each other: something else happens between them in forward"
            fix = "write forward as a few modules in a row, such as stem, blocks and head"
            raise CompressionError(f"{type(module).__name__} is no chain of layers", why=why, fix=fix)
    return links


def _watched(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    """The tree of calls of one forward."""
    top = _Call("", module, None)
    open_calls = [top]
    with ExitStack() as stack:
        for path, one in module.named_modules():

            def enter(of: nn.Module, given: Any, named: Any, path: str = path) -> None:
                call = _Call(path, of, _only((given, named)))
                open_calls[-1].calls.append(call)
                open_calls.append(call)

            def leave(of: nn.Module, given: Any, named: Any, result: Any) -> None:
                open_calls.pop().result = result

            stack.callback(one.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(one.register_forward_hook(leave, with_kwargs=True).remove)
        try:
            module(*args, **kwargs)
        except Exception as error:
            fix = "check that it runs on the example inputs"
            raise CompressionError("the model raised in forward", why=cause(error), fix=fix) from error
    return top.calls[0]


def _links(call: _Call, wanted: Tensor) -> Iterator[Link]:
    """``call`` up to ``wanted``, a tensor of its result: opened into its own calls where these are a chain, else as it is."""
    value, parts = call.given, list[Link]()
    goals = [*(one.given for one in call.calls[1:]), wanted]
    for inner, goal in zip(call.calls, goals, strict=False):  # a layer without calls has its goal alone
        glue, output = _glue(value, inner.given), _leading_to(goal, inner.result)
        if glue is None or output is None:
            break
        parts += [*glue, *_links(inner, output)]
        value = output
    else:
        last = _glue(value, wanted)
        if call.calls and last is not None:
            yield from parts
            yield from last
            return
    yield Link(call.path, call.module)


def _leading_to(following: Tensor | None, result: Any) -> Tensor | None:
    """The tensor of ``result`` that goes on as ``following``: containers of Hugging Face models give several."""
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    same = (one for one in tensors if one is following)
    return next(same, next((one for one in tensors if _glue(one, following) is not None), None))


def _glue(before: Tensor | None, after: Tensor | None) -> list[Link] | None:
    """The step of ``forward`` that leads from one tensor to the next; none in between is []; unknown is None."""
    if before is None or after is None:
        return None
    if before is after or (before.shape == after.shape and torch.equal(before, after)):
        return []
    steps: list[list[nn.Module]] = [[nn.Flatten()], [nn.ReLU()]]
    if before.ndim == 4:
        steps += [[nn.AdaptiveAvgPool2d(1)], [nn.AdaptiveAvgPool2d(1), nn.Flatten()]]
    if before.ndim == 3:
        steps += [[TokenMean()], [FirstToken()]]
    for modules in steps:
        found = nn.Sequential(*modules)(before)
        if found.shape == after.shape and torch.allclose(found, after, rtol=TOLERANCE, atol=TOLERANCE):
            return [Link("", module) for module in modules]
    return None


def _equal(links: list[Link], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the links compute what the module does, on the example and on noise of its size."""
    composed = nn.Sequential(*(link.module for link in links))
    trials = [(args, kwargs)] + [pytree.tree_map_only(Tensor, _noise, (args, kwargs)) for _ in range(TRIALS)]
    for given, named in trials:
        wanted = imitated(module(*given, **named))
        value = _only((given, named))
        try:
            found = composed(value)
        except Exception:  # a layer that needs more than the tensor before it
            return False
        if not isinstance(found, Tensor) or found.shape != wanted.shape:
            return False
        if not torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(wanted.abs().max())):
            return False
    return True


def _noise(value: Tensor) -> Tensor:
    """Of the same spread; indices as they are."""
    if not value.is_floating_point():
        return value
    return value.mean() + torch.randn_like(value) * (value.std() if value.numel() > 1 else 1.0)


def _only(tree: Any) -> Tensor | None:
    """The only tensor in ``tree``."""
    found = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return found[0] if len(found) == 1 else None
