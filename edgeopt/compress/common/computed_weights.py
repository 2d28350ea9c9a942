"""Layers whose weight is computed from others before each call: nothing can be cut out of it or put into it."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

_COMPUTED = "its weights are computed from others before each call: call"


def computed_weight(layer: nn.Module) -> str:
    """Why no parameter of ``layer`` is its weight, with what to call first; "" where one is.

    ``weight_norm``, ``spectral_norm`` and torch's pruning masks do so, with hooks or as parametrizations.
    """
    if isinstance(layer, parametrize.ParametrizationList) or parametrize.is_parametrized(layer):
        return f"{_COMPUTED} torch.nn.utils.parametrize.remove_parametrizations first"
    parameters = {name for name, _ in layer.named_parameters(recurse=False)}
    computed = {name for name, value in vars(layer).items() if isinstance(value, Tensor)}
    hooked = any({f"{name}_orig", f"{name}_v"} & parameters for name in computed)
    return f"{_COMPUTED} torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove first" if hooked else ""
