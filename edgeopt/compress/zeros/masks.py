"""Which weights of a module zeros may be put into, and how those zeros outlive fine-tuning."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from edgeopt.compress.common.computed_weights import computed_weight
from edgeopt.compress.common.measures import zstd_bytes
from edgeopt.compress.technique import LayerChange
from edgeopt.errors import CompressionError, did_you_mean

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Names that torch.nn.MultiheadAttention gives to weights which are not a layer of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One matrix, kernel or table. ``name``: its path in the module; ``owners``: every module that holds it, by that path.

    ``reason``: why it must not be pruned; "" where it may.
    """

    name: str
    value: nn.Parameter
    owners: dict[str, nn.Module]
    reason: str = ""

    @property
    def layer(self) -> str:
        """The layer's path: the parameter's own where the layer has several weights."""
        return layer_name(self.name)

    def left(self, reason: str = "") -> list[LayerChange]:
        """The record of a weight that stays as it is, a line for each layer that holds it."""
        return [LayerChange(layer=layer_name(name), action="left", reason=reason or self.reason) for name in self.owners]

    def changed(self, before: str, after: str, reason: str = "") -> list[LayerChange]:
        """The record of a pruned weight: the layers that share it say so."""
        own = LayerChange(layer=self.layer, action="changed", before=before, after=after, reason=reason)
        others = [layer_name(name) for name in self.owners if name != self.name]
        shared = f"shares its weights with {self.layer}: pruned once"
        return [own, *(LayerChange(layer=one, action="changed", before=before, after=after, reason=shared) for one in others)]


def inputs_first(owner: nn.Module) -> bool:
    """Whether the first axis of its weight is that of the inputs: transposed convolutions, and GPT-2's Conv1D (x W)."""
    return isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) or is_conv1d(owner)


def is_conv1d(owner: nn.Module) -> bool:
    """Whether it is transformers' Conv1D: no convolution but a linear layer with [inputs, outputs] weights."""
    return type(owner).__name__ == "Conv1D" and hasattr(owner, "nf")


def layer_name(name: str) -> str:
    """``encoder.linear`` of ``encoder.linear.weight``."""
    return name.removesuffix(".weight")


def weights_of(module: nn.Module, exclude: Collection[str] = ()) -> list[Weight]:
    """Every parameter of two or more axes once, with the reason where it is no weight to prune. Biases have one axis.

    ``exclude``: layers' paths, ``*`` stands for anything. Raises CompressionError where one fits no layer.
    """
    owners: dict[int, dict[str, nn.Module]] = {}
    values = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        if value.ndim > 1:
            owners.setdefault(id(value), {})[name] = module.get_submodule(name.rpartition(".")[0])
            values[id(value)] = value
    _refuse_unknown(exclude, [layer_name(name) for held in owners.values() for name in held])
    found = []
    for key, held in owners.items():
        reason = next((_reason(owner, name, exclude) for name, owner in held.items() if _reason(owner, name, exclude)), "")
        found.append(Weight(name=next(iter(held)), value=values[key], owners=held, reason=reason))
    return found


def _reason(owner: nn.Module, name: str, exclude: Collection[str]) -> str:
    """Why the parameter ``name`` of ``owner`` must not be pruned; "" where it may."""
    attribute = name.rpartition(".")[2]
    value = owner.get_parameter(attribute)
    if any(fnmatchcase(layer_name(name), pattern) for pattern in exclude):
        return "excluded"
    if not value.is_floating_point():
        return "its weights are no floating-point numbers"
    if "Norm" in type(owner).__name__:
        return "a normalisation"
    if computed := computed_weight(owner):
        return computed
    recurrent = isinstance(owner, nn.RNNBase) and attribute.startswith("weight_")
    if attribute != "weight" and attribute not in _PROJECTIONS and not recurrent:
        return "no weight of a known kind of layer"
    return "" if bool(value.any()) else "all its weights are zero"  # as adapters begin: training must be free to change them


def _refuse_unknown(exclude: Iterable[str], layers: Sequence[str]) -> None:
    for pattern in exclude:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            why = "no layer with weights has this path"
            fix = did_you_mean(pattern, layers) or f"the layers are {', '.join(layers)[:300]}"
            raise CompressionError(f"exclude names {pattern!r}", why=why, fix=fix)


def smallest(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks, bool, one for each of ``values``: exactly the ``count`` smallest magnitudes of all, the first of equal ones."""
    flat = torch.cat([value.detach().abs().flatten().to(values[0].device) for value in values])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(count).values
        chosen = flat < threshold
        equal = (flat == threshold).nonzero().flatten()
        chosen[equal[: count - int(chosen.sum())]] = True
    parts = torch.split(chosen, [value.numel() for value in values])
    return [part.reshape(value.shape).to(value.device) for part, value in zip(parts, values, strict=True)]


def zeros(value: Tensor) -> int:
    """How many numbers of ``value`` are exactly zero."""
    return value.numel() - int(torch.count_nonzero(value))


def download(before: nn.Module, after: nn.Module) -> str:
    """What zeros are always good for, in a note with both figures."""
    was, becomes = zstd_bytes(before), zstd_bytes(after)
    return f"{'smaller' if becomes < was else 'no smaller'} download: {was:,} -> {becomes:,} bytes with zstd"


def keep_zeros(module: nn.Module, names: Collection[str] | None = None) -> Callable[[], None]:
    """Notes the zeros that ``module``'s weights have now; the function it returns puts them back.

    ``names``: paths of the parameters that are looked at, those the module has; None: every weight that pruning may touch.
    """
    if names is None:
        names = [weight.name for weight in weights_of(module) if not weight.reason]
    present = dict(module.named_parameters(remove_duplicate=False))
    masks = {name: present[name].detach() == 0 for name in names if name in present}

    def restore() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                value = module.get_parameter(name)
                value.masked_fill_(mask.to(value.device), 0.0)

    return restore
