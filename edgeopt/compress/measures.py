"""How big a module is and how much it computes: parameters, multiply-accumulates, bytes, zeros."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import zstandard
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgeopt.calling import call_arguments
from edgeopt.compress.modes import evaluating
from edgeopt.core import data_class
from edgeopt.errors import ForwardError
from edgeopt.model import Batch
from edgeopt.user_code import cause

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
        bytes=sum(value.numel() * value.element_size() for value in _state(module)),
        zstd_bytes=zstd_bytes(module),
    )


def parameters(module: nn.Module) -> int:
    """Numbers that training may change; shared ones count once."""
    return sum(value.numel() for value in module.parameters())


def macs(module: nn.Module, example_inputs: Batch) -> int:
    """Multiply-accumulates of one call: convolutions and matrix products, in recurrent layers and attention too.

    Counted by torch's FlopCounterMode on the operators that really run (2 FLOP each), not from formulas per layer.
    """
    return sum(macs_by_layer(module, example_inputs).values())


def macs_by_layer(module: nn.Module, example_inputs: Batch) -> dict[str, int]:
    """The same by the path of the innermost module that computes them; "" is the module itself."""
    counter = FlopCounterMode(display=False)
    args, kwargs = call_arguments(example_inputs)
    try:
        with evaluating(module), _unfused(), counter:
            module(*args, **kwargs)
    except Exception as error:
        fix = "check that it runs on the example inputs"
        raise ForwardError("the model raised in forward", why=cause(error), fix=fix) from error
    return _innermost(counter, module)


@contextmanager
def _unfused() -> Iterator[None]:
    """Without the operators that hide what they multiply: attention in one, and whole recurrent layers in oneDNN."""
    attention, recurrent = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        torch._C._set_mkldnn_enabled(recurrent)


def zstd_bytes(module: nn.Module) -> int:
    """Bytes of the whole state packed with zstd: what a download costs, and what zeros and repeated values save."""
    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    return sum(len(packer.compress(_raw(value))) for value in _state(module)) + len(packer.flush())


def sparsity(module: nn.Module) -> dict[str, float]:
    """Share of exact zeros in every weight of two or more axes, by parameter name."""
    return {name: float((value == 0).float().mean()) for name, value in module.named_parameters() if value.ndim > 1}


def _state(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor of the state once, shared ones too."""
    seen: set[int] = set()
    for value in (*module.parameters(), *module.buffers()):
        if id(value) not in seen:
            seen.add(id(value))
            yield value.detach()


def _raw(value: Tensor) -> bytes:
    return value.contiguous().cpu().view(torch.uint8).numpy().tobytes() if value.ndim else bytes(value.element_size())


def _innermost(counter: FlopCounterMode, module: nn.Module) -> dict[str, int]:
    """What each module computes itself: its own count less its children's."""
    counts = {name: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    root = type(module).__name__
    whole = counts.pop("Global", 0)
    by_path = {name.removeprefix(root).lstrip("."): count for name, count in counts.items()}
    by_path[""] = whole
    own = dict(by_path)
    for name, count in by_path.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in by_path:
                parent = parent.rpartition(".")[0]
            own[parent] -= count
    return {name: count for name, count in own.items() if count}
