"""Where the heads of an attention layer lie in its projections, by the names that model families give these; cutting them.

Hugging Face's attention reshapes to ``(..., -1, head_dim)``: with fewer rows in its projections it simply has fewer heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.attention import replaceable
from edgeopt.compress.technique import LayerChange

Order = Literal["thirds", "by head"]
"""How one fused matrix holds query, key and value: one behind the other (GPT-2), or head by head (GPT-NeoX)."""

SEPARATE = (
    (("q_proj", "k_proj", "v_proj"), ("o_proj", "out_proj", "dense")),  # Llama, ViT, CLIP, BART, OPT, Phi
    (("query", "key", "value"), ("dense", "out_proj")),  # BERT and what comes from it, with the output in a sibling
    (("q_lin", "k_lin", "v_lin"), ("out_lin",)),  # DistilBERT
    (("q", "k", "v"), ("o",)),  # T5
)
FUSED: tuple[tuple[str, str, Order], ...] = (
    ("c_attn", "c_proj", "thirds"),  # GPT-2
    ("qkv", "proj", "thirds"),  # timm
    ("query_key_value", "dense", "by head"),  # GPT-NeoX, BLOOM
)
HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
WIDTHS = ("all_head_size", "inner_dim", "split_size", "attn_dim")
"""Attributes that hold heads times their size."""


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """One attention layer. ``path`` is that of ``module``, which holds the projections; ``output`` mixes the heads again.

    A *unit* is what can go alone: a head; where several query heads share a key-value head (grouped-query attention,
    arXiv:2305.13245), such a group; where all share one, a query head.
    """

    path: str
    module: nn.Module
    output: nn.Module
    names: tuple[str, ...]
    order: Order | None
    head_dim: int
    heads: int
    key_value_heads: int

    @property
    def units(self) -> int:
        """How many can be told apart."""
        return self.heads if self.key_value_heads == 1 else self.key_value_heads

    @property
    def unit_width(self) -> int:
        """Numbers that one unit hands to ``output``."""
        return self.heads // self.units * self.head_dim

    def cut(self, kept: Sequence[int]) -> None:
        """Leaves only the units ``kept`` (ascending) in the module's projections, in place."""
        device = weight_of(self.output).device
        units = torch.tensor(kept, device=device)
        queries = _spread(units, self.unit_width)
        others = _spread(units, self.head_dim) if self.key_value_heads > 1 else torch.arange(self.head_dim, device=device)
        if self.order is None:
            for name, rows in zip(self.names, (queries, others, others), strict=True):
                keep_outputs(getattr(self.module, name), rows)
        else:
            width = self.heads * self.head_dim
            fused = torch.cat([queries + third * width for third in range(3)])
            rows = fused if self.order == "thirds" else _spread(units, 3 * self.head_dim)
            keep_outputs(getattr(self.module, self.names[0]), rows)
        keep_inputs(self.output, queries)
        self._say(len(queries) // self.head_dim, len(others) // self.head_dim)

    def _say(self, heads: int, key_value_heads: int) -> None:
        """Writes the new counts wherever the module keeps them."""
        values = dict.fromkeys(HEAD_COUNTS, heads) | dict.fromkeys(WIDTHS, heads * self.head_dim)
        values |= {"num_key_value_heads": key_value_heads, "num_key_value_groups": heads // key_value_heads}
        for name, value in values.items():
            if isinstance(vars(self.module).get(name), int):
                setattr(self.module, name, value)


def attention_layers(module: nn.Module) -> Iterator[AttentionLayer | LayerChange]:
    """Every attention layer in ``module`` in its order; one whose heads cannot be cut is a change left, with the reason."""
    parents = {id(child): parent for parent in module.modules() for child in parent.children()}
    biased = any(hasattr(found, "relative_attention_bias") for found in module.modules())
    for path, found in module.named_modules():
        layer = _separate(path, found, parents.get(id(found))) or _fused(path, found)
        if layer is None:
            reason = _unknown(found)
        elif isinstance(layer, str):
            reason = layer
        else:
            reason = "its heads add a position bias that all layers share" if biased else _unfit(layer)
        if reason:
            yield LayerChange(layer=path, action="left", reason=reason)
        elif isinstance(layer, AttentionLayer):
            yield layer


def _separate(path: str, module: nn.Module, parent: nn.Module | None) -> AttentionLayer | str | None:
    """The layer with a projection each for query, key and value."""
    for names, outputs in SEPARATE:
        if all(is_projection(getattr(module, name, None)) for name in names):
            places = (module, getattr(parent, "output", None))
            found = [getattr(place, name, None) for place in places for name in outputs]
            output = next((child for child in found if is_projection(child)), None)
            if output is None:
                return "the projection behind its heads was not found"
            queries, keys, values = (sizes(getattr(module, name))[1] for name in names)
            head_dim = _head_dim(module, queries)
            if keys != values:
                return "keys and values have heads of different sizes"
            return AttentionLayer(path, module, output, names, None, head_dim, queries // head_dim, keys // head_dim)
    return None


def _fused(path: str, module: nn.Module) -> AttentionLayer | None:
    """The layer with one projection for all three."""
    for name, output, order in FUSED:
        if is_projection(getattr(module, name, None)) and is_projection(getattr(module, output, None)):
            width = sizes(getattr(module, name))[1] // 3
            head_dim = _head_dim(module, width)
            return AttentionLayer(
                path, module, getattr(module, output), (name,), order, head_dim, width // head_dim, width // head_dim
            )
    return None


def _head_dim(module: nn.Module, queries: int) -> int:
    """Numbers per head; the whole width, one head, where the module does not say."""
    found = [getattr(module, name, None) for name in HEAD_SIZES]
    counts = [getattr(module, name, None) for name in HEAD_COUNTS]
    size = next((value for value in found if isinstance(value, int)), None)
    return size or queries // next((count for count in counts if isinstance(count, int)), 1)


def _unfit(layer: AttentionLayer) -> str:
    """Why the sizes found do not make heads; "" where they do."""
    queries = layer.heads * layer.head_dim
    fused = layer.order is not None
    expected = 3 * queries if fused else queries
    if sizes(layer.output)[0] != queries or sizes(getattr(layer.module, layer.names[0]))[1] != expected:
        return "its projections do not fit together as heads"
    if layer.heads % layer.key_value_heads:
        return "its query heads do not share key-value heads evenly"
    if any("relative_position" in name for name, _ in layer.module.named_parameters()):
        return "its heads have position biases of their own"
    return ""


def _unknown(module: nn.Module) -> str:
    """Why a module that is attention by its class cannot be cut; "" for every other module."""
    if isinstance(module, nn.MultiheadAttention):
        return replaceable(module)
    named = type(module).__name__.endswith("Attention") and any(is_projection(child) for child in module.children())
    return "its projections have names that are not known here" if named else ""


def weight_of(projection: nn.Module) -> Tensor:
    """The weight, in whichever order of axes."""
    weight: Tensor = projection.weight  # type: ignore[assignment]
    return weight


def sizes(projection: nn.Module) -> tuple[int, int]:
    """(inputs, outputs): nn.Linear stores [out, in], Hugging Face's Conv1D [in, out]."""
    rows, columns = weight_of(projection).shape
    return (rows, columns) if is_transposed(projection) else (columns, rows)


def is_transposed(projection: nn.Module) -> bool:
    """Whether it is Hugging Face's Conv1D: a linear layer with its weight as [in, out]."""
    return type(projection).__name__ == "Conv1D" and hasattr(projection, "nf")


def shared_modules(module: nn.Module) -> set[nn.Module]:
    """Modules that hold a parameter which another module holds too."""
    owners: dict[int, list[nn.Module]] = {}
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(child)
    return {child for found in owners.values() if len(found) > 1 for child in found}


def is_projection(module: object) -> bool:
    """Whether it is a linear layer of either kind, not a subclass that computes something else besides."""
    return type(module) is nn.Linear or (isinstance(module, nn.Module) and is_transposed(module))


def keep_outputs(projection: nn.Module, rows: Tensor) -> None:
    """Leaves of ``projection``'s outputs only ``rows``, in place."""
    _select(projection, "weight", rows, 1 if is_transposed(projection) else 0)
    if getattr(projection, "bias", None) is not None:
        _select(projection, "bias", rows, 0)
    setattr(projection, "nf" if is_transposed(projection) else "out_features", len(rows))


def keep_inputs(projection: nn.Module, columns: Tensor) -> None:
    """Leaves of ``projection``'s inputs only ``columns``, in place."""
    _select(projection, "weight", columns, 0 if is_transposed(projection) else 1)
    setattr(projection, "nx" if is_transposed(projection) else "in_features", len(columns))


def _select(module: nn.Module, name: str, indices: Tensor, axis: int) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(old.detach().index_select(axis, indices), old.requires_grad))


def _spread(units: Tensor, width: int) -> Tensor:
    """Indices of the ``width`` numbers that belong to each unit."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
