"""What reaches the layers of a module: second moments of the inputs of each weight matrix, gathered by hooks while it runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating, layer_by_layer
from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.masks import Weight
from edgeopt.errors import CompressionError, ForwardError
from edgeopt.model.signature import Signature
from edgeopt.model.user_code import cause
from edgeopt.quantize.replay import patches, thinned

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Rows = Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Tensor]]
"""From a call's arguments to the rows that each part of a weight matrix is multiplied with."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a weight's inputs are seen: the module that is called, and what its arguments are to each part of the matrix."""

    called: nn.Module
    rows: Rows


class Observed:
    """``module``, run on samples of ``context.batches``, which must fit the example inputs; labels behind them are dropped.

    The weights of the module are read when it runs: a layer's inputs are what all changes made before it leave of them.
    """

    def __init__(self, module: nn.Module, context: Context, samples: int) -> None:
        if context.batches is None:
            fix = 'give calibration data, or method = "magnitude", which needs none'
            raise CompressionError("this choice of zeros looks at data", why="there are no batches", fix=fix)
        self._module = module
        self._signature, _ = Signature.of(module.forward, context.example_inputs)
        pieces = (piece for batch in context.data() for piece in self._signature.split(batch, "the data"))
        self._samples = list(islice(pieces, samples))
        if not self._samples:
            raise CompressionError("this choice of zeros looks at data", why="the batches are empty", fix="give some")

    def in_order(self, weights: Sequence[Weight]) -> list[Weight]:
        """Those of ``weights`` whose layers the module calls, in the order in which it first does."""
        reached: dict[str, Weight] = {}

        def note(weight: Weight, *_: Any) -> None:
            reached.setdefault(weight.name, weight)

        hooks = [(site.called, partial(note, weight)) for weight in weights for site in _sites(self._module, weight)]
        self._run(hooks, self._samples[:1])
        return list(reached.values())

    def moments(self, weight: Weight, *, full: bool) -> list[Tensor]:
        """The sum of x x^T over input rows x, for each equal part of the rows of ``weight``: one, or three (query, key, value).

        float64 [inputs, inputs], or only the diagonal [inputs] where not ``full``. Inputs of all layers that share it count.
        """
        sums: list[Tensor] = []

        def add(site: _Site, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            parts = [thinned(rows.float(), len(self._samples)) for rows in site.rows(args, kwargs)]
            found = [(part.T @ part if full else part.square().sum(0)).double() for part in parts]
            sums[:] = [total + one for total, one in zip(sums, found, strict=True)] if sums else found

        self._run([(site.called, partial(add, site)) for site in _sites(self._module, weight)], self._samples)
        return sums

    def _run(self, hooks: Iterable[tuple[nn.Module, Callable[..., None]]], samples: Iterable[tuple[Tensor, ...]]) -> None:
        handles = [called.register_forward_pre_hook(hook, with_kwargs=True) for called, hook in hooks]
        try:
            with evaluating(self._module), layer_by_layer():
                for sample in samples:
                    args, kwargs = pytree.tree_unflatten(list(sample), self._signature.tree)
                    self._module(*args, **kwargs)
        except Exception as error:
            raise ForwardError("the model raised in forward", why=cause(error), fix="check that it runs on the data") from error
        finally:
            for handle in handles:
                handle.remove()


def _sites(module: nn.Module, weight: Weight) -> Iterator[_Site]:
    """One for each layer that holds ``weight``."""
    for name, owner in weight.owners.items():
        path, _, attribute = name.rpartition(".")
        above = module.get_submodule(path.rpartition(".")[0])
        if isinstance(owner, nn.MultiheadAttention):
            yield _Site(owner, _projected(attribute))
        elif isinstance(above, nn.MultiheadAttention):  # it multiplies with its out_proj's weight and never calls the layer
            yield _Site(above, _attended(above))
        elif isinstance(owner, Convolution):
            yield _Site(owner, _seen(owner))
        else:
            yield _Site(owner, lambda args, kwargs: [_flat(_first(args, kwargs))])


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    value: Tensor = args[0] if args else next(iter(kwargs.values()))
    return value


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _seen(layer: Convolution) -> Rows:
    def rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        value, padding = _first(args, kwargs), layer.padding
        if layer.padding_mode != "zeros":
            both = layer._reversed_padding_repeated_twice
            value, padding = nn.functional.pad(value, both, mode=layer.padding_mode), "valid"
        return [patches(value, layer.kernel_size, layer.stride, padding, layer.dilation)]

    return rows


def _projected(attribute: str) -> Rows:
    """Query, key and value, or the one that the weight called ``attribute`` is for."""
    names = ("query", "key", "value")

    def rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        given = dict(zip(names, args, strict=False)) | kwargs
        return [_flat(given[name]) for name in names if attribute in ("in_proj_weight", f"{name[0]}_proj_weight")]

    return rows


def _attended(attention: nn.MultiheadAttention) -> Rows:
    """What attention gives to its last layer: what it returns where that layer changes nothing."""

    def rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        last = attention.out_proj
        weight, bias = last.weight.data, last.bias.data if last.bias is not None else None
        last.weight.data = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        if bias is not None:
            last.bias.data = torch.zeros_like(bias)
        try:
            return [_flat(attention.forward(*args, **kwargs)[0])]
        finally:
            last.weight.data = weight
            if bias is not None:
                last.bias.data = bias

    return rows
