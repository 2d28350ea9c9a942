"""How big a module is and how much it computes: parameters, multiply-accumulates, bytes, zeros."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgeopt.capture import macs as executed
from edgeopt.compress.common.modes import evaluating
from edgeopt.core import data_class
from edgeopt.errors import ForwardError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause

ZSTD_LEVEL = 19
"""As a download would be packed: the highest level that needs no special window on the other side."""


@data_class
class Size:
    """``parameters``: shared ones once. ``macs``: of one call. ``bytes``: of the state as it is. ``zstd_bytes``: packed."""

    parameters: int
    macs: int
    bytes: int
    zstd_bytes: int


def size(module: nn.Module, example_inputs: Batch) -> Size:
    """All four figures. Raises ForwardError where the module does not run on the example inputs."""
    return Size(
        parameters=parameters(module),
        macs=macs(module, example_inputs),
        bytes=_bytes(module),
        zstd_bytes=zstd_bytes(module),
    )


def parameters(module: nn.Module) -> int:
    """Numbers that training may change; shared ones count once."""
    return sum(value.numel() for value in module.parameters())


def macs(module: nn.Module, example_inputs: Batch) -> int:
    """Multiply-accumulates of one call: convolutions and matrix products, in recurrent layers and attention too."""
    return sum(macs_by_layer(module, example_inputs).values())


def macs_by_layer(module: nn.Module, example_inputs: Batch) -> dict[str, int]:
    """The same by the path of the innermost module that computes them; "" is the module itself."""
    args, kwargs = call_arguments(example_inputs)
    try:
        with evaluating(module):
            return executed.macs_by_layer(module, lambda: module(*args, **kwargs))
    except Exception as error:
        fix = "check that it runs on the example inputs"
        raise ForwardError("the model raised in forward", why=cause(error), fix=fix) from error


def zstd_bytes(module: nn.Module) -> int:
    """Bytes of the whole state packed with zstd: what a download costs, and what zeros and repeated values save."""
    # told the size, zstd allocates no more than it needs: 5 ms instead of 43 ms for a small net
    import zstandard  # of the extra compress: layers are looked at for pruning without it

    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=_bytes(module))
    return sum(len(packer.compress(_raw(value))) for value in _state(module)) + len(packer.flush())


def sparsity(module: nn.Module) -> dict[str, float]:
    """Share of exact zeros in every weight of two or more axes, by parameter name."""
    return {name: float((value == 0).float().mean()) for name, value in module.named_parameters() if value.ndim > 1}


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in _state(module))


def _state(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor of the state once, shared ones too."""
    seen: set[int] = set()
    for value in (*module.parameters(), *module.buffers()):
        if id(value) not in seen:
            seen.add(id(value))
            yield value.detach()


def _raw(value: Tensor) -> bytes:
    return value.contiguous().cpu().view(torch.uint8).numpy().tobytes() if value.ndim else bytes(value.element_size())
