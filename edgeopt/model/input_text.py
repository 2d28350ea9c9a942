"""Inputs given as text: ``1x3x224x224:float32``, ``ids=1x128:int64``, ``scalar:float32``."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeopt.errors import InputError, UsageError, did_you_mean
from edgeopt.support.untrusted import shown

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "float16", "int64", "int32", "uint8", "int8", "bool")
LARGEST_INPUT = 2**31
"""Elements of one input: an example of its shape is made to trace with."""
EXAMPLE = "write it as 1x3x224x224:float32, or ids=1x128:int64 where the model has several inputs"

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)=)?(?P<shape>scalar|[0-9]{1,9}(?:x[0-9]{1,9})*)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input: ``name`` is the parameter of the model's forward, None for the next in order; no shape is a scalar."""

    name: str | None = None
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        return f"{name}{'x'.join(map(str, self.shape)) or 'scalar'}:{self.dtype}"


def parse_input(text: str) -> InputSpec:
    """The input that ``text`` describes; float32 where it gives no dtype. Raises UsageError with an example."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"--input {shown(text)} cannot be read", fix=EXAMPLE)
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        why = did_you_mean(dtype, DTYPES) or f"the dtypes are {', '.join(DTYPES)}"
        raise UsageError(f"--input {shown(text)} has an unknown dtype {shown(dtype)}", why=why, fix=EXAMPLE)
    shape = () if match["shape"] == "scalar" else tuple(map(int, match["shape"].split("x")))
    if 0 in shape:
        raise UsageError(f"--input {shown(text)} has an empty dimension", why="sizes begin at 1", fix=EXAMPLE)
    return InputSpec(name=match["name"], shape=shape, dtype=dtype)


def generate(specs: tuple[InputSpec, ...]) -> "dict[str, Tensor] | tuple[Tensor, ...]":
    """Seeded tensors for ``specs``: a dict where they are named, else a tuple in their order.

    Floats are standard normal; int32 and int64 are 0 or 1, which any vocabulary, mask or token type contains.
    """
    names = [spec.name for spec in specs if spec.name]
    if len(names) not in (0, len(specs)):
        raise UsageError("some --input have a name and some have none", fix="name all of them, as in ids=1x128:int64, or none")
    if len(set(names)) < len(names):
        raise UsageError("two --input have the same name", fix="give each parameter of the model's forward once")
    tensors = tuple(_tensor(spec, seed) for seed, spec in enumerate(specs))
    return dict(zip(names, tensors, strict=True)) if names else tensors


def _tensor(spec: InputSpec, seed: int) -> "Tensor":
    import torch

    if math.prod(spec.shape) > LARGEST_INPUT:
        why, fix = "edgeopt takes 2**31 elements at most", "give the shape of one real call"
        raise InputError(f"--input {shown(str(spec))} cannot be made", why=why, fix=fix)
    dtype: Any = getattr(torch, spec.dtype)
    generator = torch.Generator().manual_seed(seed)
    try:
        if spec.dtype.startswith("float"):
            return torch.randn(spec.shape, generator=generator).to(dtype)
        low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(spec.dtype, (0, 2))
        return torch.randint(low, high, spec.shape, generator=generator, dtype=dtype)
    except (RuntimeError, MemoryError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"--input {spec} cannot be made", why=why, fix="give the shape of one real call") from error
