"""Modules as they are looked at: in evaluation, and without the fused operators that call no layer inside them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back at the end."""
    with modes_kept(*modules), torch.no_grad():
        for root in modules:
            root.eval()
        yield


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Whatever is done meanwhile: in the end every module inside ``modules`` trains, or does not, as it did."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Without attention's fast path, one operator that hides what it multiplies."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
