"""The copy that a technique works on: what the user gave stays as it is."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from edgeopt.errors import CompressionError, NotFiniteError
from edgeopt.model.user_code import summary


def copied(module: nn.Module) -> nn.Module:
    """A deep copy. Raises CompressionError where the module cannot be copied, NotFiniteError where its training diverged:
    of such weights no technique can tell which matter."""
    if broken := not_finite(module):
        fix = "train the model again, or load other weights"
        raise NotFiniteError(f"{broken} holds NaN or infinity", why="its training diverged", fix=fix)
    # What hooks compute before each call, as old-style weight_norm does, has a history that copies cannot have.
    values = (value for layer in module.modules() for value in vars(layer).values() if isinstance(value, Tensor))
    computed = {id(value): value.detach().clone() for value in values if not value.is_leaf}
    try:
        return deepcopy(module, computed)
    except Exception as error:
        fix = "keep no tensors with a history, locks or open files in it"
        raise CompressionError("the model cannot be copied", why=summary(error), fix=fix) from error


def not_finite(module: nn.Module) -> str:
    """Path of the first parameter with NaN or infinity, or of a buffer with NaN (masks may hold infinity); "" for none."""
    for name, value in module.named_parameters():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return next((name for name, value in module.named_buffers() if bool(torch.isnan(value).any())), "")
