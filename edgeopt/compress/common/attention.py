"""Multi-head attention whose heads need not fill the embedding: what nn.MultiheadAttention becomes when it loses heads.

``torch.nn.MultiheadAttention`` insists on ``embed_dim = num_heads * head_dim``, so that it cannot say "five heads of 16 in an
embedding of 96". This class can; it is called the same way and takes its place in nn.TransformerEncoderLayer and the like.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class SlimAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al., 2017, arXiv:1706.03762) with a head count of its own.

    ``forward`` is nn.MultiheadAttention's: query [N, L, embed_dim] (``batch_first``; else [L, N, embed_dim]; without N a single
    sequence), key and value likewise, masks either boolean (True is left out) or added to the scores.
    """

    in_proj_bias = None
    """Asked for by nn.TransformerEncoderLayer, which then leaves its fused kernel alone: that knows no other head sizes."""
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        weights, biases = _projections(attention)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The attended values in ``query``'s layout, and the attention weights [N, (heads,) L, S] where they are asked for."""
        batched = query.ndim == 3
        inputs = [self._batch_first(tensor, batched) for tensor in (query, key, value)]
        q, k, v = (self._heads(project(x)) for project, x in zip((self.q_proj, self.k_proj, self.v_proj), inputs, strict=True))
        mask = self._mask(attn_mask, key_padding_mask, q)
        if need_weights:
            weights = _scores(q, k, mask).softmax(-1)
            mixed = nn.functional.dropout(weights, self.dropout, self.training) @ v
        else:
            weights = None
            dropout = self.dropout if self.training else 0.0
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def extra_repr(self) -> str:
        """Shown where the module is printed."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"

    def _batch_first(self, tensor: Tensor, batched: bool) -> Tensor:
        if not batched:
            return tensor[None]
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
        """Both masks as one to be added to the scores, broadcastable to [N, heads, L, S]."""
        parts = []
        if attn_mask is not None:
            mask = _added(attn_mask, query.dtype)
            parts.append(mask if mask.ndim == 2 else mask.reshape(query.shape[0], -1, *mask.shape[1:]))
        if padding is not None:
            padding = padding if padding.ndim == 2 else padding[None]
            parts.append(_added(padding, query.dtype)[:, None, None])
        return sum(parts[1:], parts[0]) if parts else None


def replaceable(attention: nn.MultiheadAttention) -> str:
    """Why SlimAttention cannot stand for ``attention``; "" where it can."""
    if attention.bias_k is not None or attention.add_zero_attn:
        return "keys and values are extended by a learnt bias or by zeros"
    return ""


@dataclass(slots=True)
class Slimmed:
    """A module in which SlimAttention stands for every nn.MultiheadAttention, and what was there before."""

    module: nn.Module
    _replaced: dict[str, nn.MultiheadAttention]
    _nested: dict[str, bool]

    @classmethod
    def of(cls, module: nn.Module) -> "Slimmed":
        """Changes ``module`` in place. The fused kernels and nested tensors of torch's encoder are switched off in it."""
        found = {
            path: child
            for path, child in module.named_modules()
            if type(child) is nn.MultiheadAttention and not replaceable(child)
        }
        for path, child in found.items():
            module = put(module, path, SlimAttention(child))
        nested: dict[str, bool] = {}
        for path, encoder in module.named_modules():
            if isinstance(encoder, nn.TransformerEncoder):
                nested[path] = encoder.use_nested_tensor
                encoder.use_nested_tensor = False
        return cls(module, found, nested)

    def restored(self, cut: Collection[str]) -> nn.Module:
        """The module with torch's own attention again wherever ``cut`` does not name the path."""
        module = self.module
        for path, old in self._replaced.items():
            if path not in cut:
                module = put(module, path, old)
        for path, nested in self._nested.items():
            encoder: Any = module.get_submodule(path)
            encoder.use_nested_tensor = nested and not any(isinstance(child, SlimAttention) for child in encoder.modules())
        return module


def put(module: nn.Module, path: str, child: nn.Module) -> nn.Module:
    """``module`` with ``child`` at ``path``; ``child`` itself where the path is empty."""
    if not path:
        return child
    module.set_submodule(path, child)
    return module


def _projections(attention: nn.MultiheadAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Weights and biases of query, key and value, whether they lie in one matrix or in three."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    biases = (None, None, None) if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    return weights, biases


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return made


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _scores(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = (query @ key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
    return scores if mask is None else scores + mask
