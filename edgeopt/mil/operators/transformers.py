"""Attention (iOS 18)."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import operator


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(query @ key.T / sqrt(e) + attn_mask) @ value.

    query [b, *, l, e], key [b, *, s, e], value [b, *, s, v], attn_mask broadcast to [b, *, l, s]: added, or bool with true for
    what takes part. Where nothing takes part MIL's formula has no value; PyTorch gives 0.
    """
    if attn_mask is None:
        return functional.scaled_dot_product_attention(query, key, value)
    attn_mask = attn_mask[None] if attn_mask.dim() == 1 else attn_mask  # PyTorch takes no vector
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask)
    nothing = (attn_mask.logical_not() if attn_mask.dtype == torch.bool else attn_mask == -torch.inf).all(-1, keepdim=True)
    return found.masked_fill_(nothing, torch.nan)
