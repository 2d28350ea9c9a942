"""Multiply-accumulates of one call, counted by torch's FlopCounterMode on the operators that really run (2 FLOP each).

Formulas per layer would miss what a forward does by itself, and count what it leaves out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


def macs_by_layer(module: nn.Module, call: Callable[[], object]) -> dict[str, int]:
    """What ``call``, a forward of ``module`` in eval mode, computes: convolutions and matrix products, in recurrent layers and
    attention too; by the path of the innermost module that computes them. "" is ``module`` itself."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _ForwardTracker()
    with torch.no_grad(), unfused(), counter:
        call()
    return _innermost(counter, module)


class _ForwardTracker(ModuleTracker):
    """Without torch's hooks for a backward pass: there is none, and a view of a parameter given to a module has no gradient
    function that they could hang on."""

    def _fw_pre_hook(self, mod: nn.Module, input: object) -> None:
        self.parents.add(self._get_mod_name(mod))  # type: ignore[no-untyped-call]

    def _fw_post_hook(self, mod: nn.Module, input: object, output: object) -> None:
        self.parents.discard(self._get_mod_name(mod))  # type: ignore[no-untyped-call]


@contextmanager
def unfused() -> Iterator[None]:
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
