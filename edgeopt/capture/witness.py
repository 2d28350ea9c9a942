"""The user's own module, run as it was given: what every program and every artifact must agree with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.capture.float32 import OTHER_FLOATS, as_float32
from edgeopt.capture.module_copy import copied
from edgeopt.capture.rounding import moved
from edgeopt.model.signature import flat_outputs, other_outputs


@dataclass(frozen=True, slots=True)
class Witness:
    """Computes what ``module`` computes, for flat tensors of the example's shapes, with none of edgeopt's rewriting.

    Every run starts from the state that the module was given in, and leaves it and torch's random numbers as they were.
    """

    module: nn.Module
    """In eval mode. Where it writes its state, copies of it are run."""
    tree: pytree.TreeSpec
    dtypes: tuple[torch.dtype, ...]
    """What the user's own inputs have: a module in float64 gets float64."""
    writes: bool = True
    """Whether a run changes the module."""
    low: frozenset[torch.dtype] = frozenset()
    """The 16-bit floats that it computes in, somewhere."""

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The flat outputs, in float32 where they are float16, bfloat16 or float64."""
        return self.named(flat)[1]

    def named(self, flat: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
        """The outputs' names, and what :meth:`__call__` gives."""
        return self.run(copied(self.module) if self.writes else self.module, flat)

    def run(
        self, module: nn.Module, flat: tuple[Tensor, ...], *, seed: int = 0, fused: bool = False
    ) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
        """As :meth:`named`, of ``module``: a copy of the user's, which keeps what it writes.

        ``fused``: whether PyTorch's one operator for a whole encoder layer may run; it gives zeros where padding is masked.
        """
        names, outputs = flat_outputs(self._called(module, flat, seed, fused))
        return names, tuple(_plain(output) for output in outputs)

    def beside_tensors(self, flat: tuple[Tensor, ...], *, kinds: bool = False) -> tuple[str, ...]:
        """Names of what the module returns beside tensors, or their ``kinds``: the classes."""
        returned = self._called(copied(self.module) if self.writes else self.module, flat, 0, fused=False)
        return (
            tuple(sorted({type(leaf).__name__ for leaf in pytree.tree_leaves(returned)})) if kinds else other_outputs(returned)
        )

    def _called(self, module: nn.Module, flat: tuple[Tensor, ...], seed: int, fused: bool) -> Any:
        inputs = [value.to(dtype, copy=True) for value, dtype in zip(flat, self.dtypes, strict=True)]
        args, kwargs = pytree.tree_unflatten(inputs, self.tree)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), eager(fused):
            torch.manual_seed(seed)
            return module(*args, **kwargs)

    def floats(self) -> set[torch.dtype]:
        """The floating-point dtypes of what the module stores and takes."""
        stored = (value.dtype for value in (*self.module.parameters(), *self.module.buffers()))
        return {dtype for dtype in (*stored, *self.dtypes) if dtype.is_floating_point}

    def in_float32(self) -> "Witness":
        """The same module computing in float32 throughout."""
        return replace(self, module=copied(self.module).float(), dtypes=tuple(map(as_float32, self.dtypes)))

    def perturbed(self, seed: int) -> "Witness":
        """The same with every weight moved by a rounding of float32, or of its own dtype where that is coarser."""
        module = copied(self.module)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in (*module.parameters(), *module.buffers()):
                if value.is_floating_point():
                    value.copy_(moved(value, generator))
        return replace(self, module=module)


@contextmanager
def eager(fused: bool = False) -> Iterator[None]:
    """Inside, nothing is compiled, and attention is computed operator by operator unless ``fused``."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fused and before)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _plain(value: Tensor) -> Tensor:
    value = value.detach()
    return value.float() if value.dtype in OTHER_FLOATS else value.clone()
