"""Turns what users pass to a model (tensors, tuples, dicts) into flat tuples of tensors, and back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeopt.core import TensorSpec
from edgeopt.errors import InputError
from edgeopt.model import Batch


def call_arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` of the call that ``batch`` describes: a tensor, a sequence of arguments or a dict by name."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return tuple(batch), {}
    return (batch,), {}


def _tensors(value: Any) -> Any:
    """numpy arrays become tensors; everything else stays."""
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


@dataclass(frozen=True, slots=True)
class Signature:
    """How a model is called: names, shapes and dtypes of its flat tensor inputs, and how they nest."""

    specs: tuple[TensorSpec, ...]
    tree: pytree.TreeSpec

    @classmethod
    def of(cls, forward: Any, example: Batch) -> tuple["Signature", tuple[Tensor, ...]]:
        """The signature that ``example`` shows, and its flat tensors. Raises InputError for anything but tensors."""
        if example is None:
            raise InputError("the model has no example inputs", fix="pass example_inputs, or --input 1x3x224x224:float32")
        args, kwargs = call_arguments(example)
        names = _argument_names(forward, len(args))
        by_path, tree = pytree.tree_flatten_with_path((args, kwargs))
        specs, flat = [], []
        for path, leaf in by_path:
            value = _tensors(leaf)
            if not isinstance(value, Tensor):
                raise InputError(
                    f"the example input {pytree.keystr(path)} is a {type(leaf).__name__}, not a tensor",
                    fix="give tensors only; bind other arguments in a small wrapper module",
                )
            specs.append(spec_of(_readable(path, names), value))
            flat.append(value.detach())
        if not flat:
            raise InputError("the example inputs hold no tensor", fix="pass example_inputs, or --input 1x3x224x224:float32")
        return cls(_unique(specs), tree), tuple(flat)

    def split(self, batch: Batch, what: str) -> Iterator[tuple[Tensor, ...]]:
        """Flat samples of exactly this signature's shapes, checked. Raises InputError naming ``what``.

        A batch whose first axis is a multiple of the example's is cut along it; a remainder is left out.
        """
        if isinstance(batch, Mapping):
            leaves = self._in_order(batch, what)
        else:  # data loaders yield (inputs, labels): calibration needs no labels
            leaves = pytree.tree_leaves(call_arguments(batch))[: len(self.specs)]
        if len(leaves) != len(self.specs):
            raise InputError(f"{what} has {len(leaves)} tensors, the model takes {len(self.specs)}: {self.describe()}")
        tensors = [_tensors(leaf) for leaf in leaves]
        for start in self._starts(tensors):
            parts = [_part(value, spec, start) for value, spec in zip(tensors, self.specs, strict=True)]
            yield tuple(self._checked(part, spec, what) for part, spec in zip(parts, self.specs, strict=True))

    def _in_order(self, batch: Mapping[str, Any], what: str) -> list[Any]:
        """The leaves of ``batch`` in the order of the model's inputs, whatever the order of its keys."""
        given = {_identifier("_".join(map(_key, path))): leaf for path, leaf in pytree.tree_leaves_with_path(dict(batch))}
        names = [spec.name for spec in self.specs]
        if set(given) != set(names):
            raise InputError(f"{what} has the inputs {', '.join(given) or 'none'}, the model takes {self.describe()}")
        return [given[name] for name in names]

    def _starts(self, tensors: list[Any]) -> list[int]:
        """Where to cut along the first axis, in units of the example's own batch size."""
        wanted = [spec.shape for spec in self.specs]
        given = [tuple(value.shape) if isinstance(value, Tensor) else () for value in tensors]
        if given == wanted or any(not shape or shape[1:] != want[1:] for shape, want in zip(given, wanted, strict=True)):
            return [0]
        counts = {shape[0] // want[0] for shape, want in zip(given, wanted, strict=True) if want[0]}
        return list(range(counts.pop())) if len(counts) == 1 else [0]

    def describe(self) -> str:
        """Every input as ``name=1x3x224x224:float32``."""
        return ", ".join(f"{spec.name}={'x'.join(map(str, spec.shape))}:{spec.dtype}" for spec in self.specs)

    def _checked(self, value: Any, spec: TensorSpec, what: str) -> Tensor:
        fix = f"every batch must fit the example inputs: {self.describe()}"
        if not isinstance(value, Tensor):
            raise InputError(f"{what}: input {spec.name} is a {type(value).__name__}, not a tensor", fix=fix)
        if tuple(value.shape) != spec.shape:
            raise InputError(f"{what}: input {spec.name} has shape {tuple(value.shape)}, expected {spec.shape}", fix=fix)
        if value.is_floating_point() != spec.dtype.startswith("float"):
            raise InputError(f"{what}: input {spec.name} is {dtype_name(value.dtype)}, expected {spec.dtype}", fix=fix)
        return value.detach().to(getattr(torch, spec.dtype))


def _part(value: Any, spec: TensorSpec, start: int) -> Any:
    size = spec.shape[0] if spec.shape else 0
    whole = not isinstance(value, Tensor) or tuple(value.shape) == spec.shape or value.shape[0] < size
    return value if whole else value[start * size : (start + 1) * size]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def spec_of(name: str, value: Tensor) -> TensorSpec:
    """Name, shape and dtype of a tensor."""
    return TensorSpec(name=name, shape=tuple(int(size) for size in value.shape), dtype=dtype_name(value.dtype))


def flat_outputs(output: Any) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Names and tensors of what a model returned: a tensor, a tuple, a dict, or a dataclass as ``transformers`` has them."""
    by_path, _ = pytree.tree_flatten_with_path(output)
    found = [(_readable_output(path), leaf) for path, leaf in by_path if isinstance(leaf, Tensor)]
    if len(found) == 1 and found[0][0].startswith("output_"):
        found = [("output", found[0][1])]
    return tuple(name for name, _ in found), tuple(leaf for _, leaf in found)


def _argument_names(forward: Any, count: int) -> list[str]:
    parameters = list(signature(forward).parameters.values())
    positional = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    return [positional[index] if index < len(positional) else f"input_{index}" for index in range(count)]


def _readable(path: pytree.KeyPath, names: list[str]) -> str:
    """``x`` for args[0], ``kwargs['mask']`` as ``mask``, deeper ones joined by underscores."""
    parts = [_key(key) for key in path[1:]]
    if isinstance(path[0], pytree.SequenceKey) and path[0].idx == 0:
        parts[0] = names[int(parts[0])]
    return _identifier("_".join(parts))


def _readable_output(path: pytree.KeyPath) -> str:
    name = _identifier("_".join(_key(key) for key in path))
    return name if name and not name[0].isdigit() else f"output_{name or 0}"


def _key(key: Any) -> str:
    return str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", key))))


def _identifier(text: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in text)


def _unique(specs: list[TensorSpec]) -> tuple[TensorSpec, ...]:
    if len({spec.name for spec in specs}) == len(specs):
        return tuple(specs)
    return tuple(TensorSpec(name=f"{s.name}_{i}", shape=s.shape, dtype=s.dtype) for i, s in enumerate(specs))
