"""Turns what users pass to a model (tensors, tuples, dicts) into flat tuples of tensors, and back."""

import keyword
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
from edgeopt.model.model import Batch
from edgeopt.model.rebatching import Rebatching

_TAKEN = {"self", "torch", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree"}
"""Names that the code of a graph uses itself."""


def call_arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` of the call that ``batch`` describes: a tensor, a sequence of arguments or a dict by name."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return tuple(batch), {}
    return (batch,), {}


def as_float32(batch: Batch) -> Batch:
    """``batch`` with floats of every precision as float32, numpy's too: in this one models are captured and calibrated."""

    def convert(leaf: Any) -> Any:
        value = _tensors(leaf)
        is_other = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32
        return value.float() if is_other else leaf

    return pytree.tree_map(convert, batch)


def _tensors(value: Any) -> Any:
    """numpy arrays become tensors; everything else stays, and so do arrays of what torch has no type for."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        return value


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{'quantized' if value.is_quantized else str(value.layout).removeprefix('torch.')} tensor"
    return f"{type(value).__name__} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


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
            if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
                raise InputError(
                    f"the example input {pytree.keystr(path)} is a {_kind(leaf)}, not a dense tensor",
                    fix="give a dense tensor: x.to_dense()"
                    if isinstance(value, Tensor)
                    else "give tensors only; bind other arguments in a small wrapper module",
                )
            specs.append(spec_of(_readable(path, names), value))
            flat.append(value.detach())
        if not flat:
            raise InputError("the example inputs hold no tensor", fix="pass example_inputs, or --input 1x3x224x224:float32")
        return cls(_unique(specs), tree), tuple(flat)

    def split(self, batch: Batch, what: str) -> Iterator[tuple[Tensor, ...]]:
        """Flat samples of exactly this signature's shapes, checked. Raises InputError naming ``what``.

        A batch whose first axis is larger than the example's is cut along it; a remainder is left out. Of several batches
        :class:`edgeopt.model.rebatching.Rebatching` joins the remainders.
        """
        return Rebatching(self).add(batch, what)

    def checked(self, batch: Batch, what: str) -> list[Tensor]:
        """The tensors of ``batch`` in the order of the inputs, of their dtypes and any shape. Raises InputError."""
        if isinstance(batch, Mapping):
            leaves = self._in_order(batch, what)
        else:  # data loaders yield (inputs, labels): calibration needs no labels
            leaves = pytree.tree_leaves(call_arguments(batch))[: len(self.specs)]
        if len(leaves) != len(self.specs):
            came = f"{len(leaves)} tensor{'' if len(leaves) == 1 else 's'}"
            takes = f"the model takes {len(self.specs)}: {self.describe()}"
            raise InputError(f"{what} has {came}, {takes}", fix="give every input, in this order")
        return [self._of_dtype(_tensors(leaf), spec, what) for leaf, spec in zip(leaves, self.specs, strict=True)]

    def fitting(self, values: list[Tensor], what: str) -> tuple[Tensor, ...]:
        """``values`` as one sample. Raises InputError where a shape is not the example's."""
        for value, spec in zip(values, self.specs, strict=True):
            shape = tuple(value.shape)
            if shape != spec.shape:
                fix = f"every batch must fit the example inputs: {self.describe()}"
                if shape == spec.shape[1:]:
                    fix = f"the first axis, that of the batch, is missing: give {spec.name}[None]"
                raise InputError(f"{what}: input {spec.name} has shape {shape}, expected {spec.shape}", fix=fix)
        return tuple(values)

    def _in_order(self, batch: Mapping[str, Any], what: str) -> list[Any]:
        """The leaves of ``batch`` in the order of the model's inputs, whatever the order of its keys."""
        given = {_identifier("_".join(map(_key, path))): leaf for path, leaf in pytree.tree_leaves_with_path(dict(batch))}
        names = [spec.name for spec in self.specs]
        if set(given) != set(names):
            takes = f"the model takes {self.describe()}"
            raise InputError(f"{what} has the inputs {', '.join(given) or 'none'}, {takes}", fix="give these, by their names")
        return [given[name] for name in names]

    def describe(self) -> str:
        """Every input as ``name=1x3x224x224:float32``."""
        return ", ".join(f"{spec.name}={'x'.join(map(str, spec.shape))}:{spec.dtype}" for spec in self.specs)

    def _of_dtype(self, value: Any, spec: TensorSpec, what: str) -> Tensor:
        """As the model takes it: floats of any precision are one kind, integers and booleans another."""
        fix = f"every batch must fit the example inputs: {self.describe()}"
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            raise InputError(f"{what}: input {spec.name} is a {_kind(value)}, not a dense tensor", fix=fix)
        if value.is_floating_point() != spec.dtype.startswith(("float", "bfloat")):
            raise InputError(f"{what}: input {spec.name} is {dtype_name(value.dtype)}, expected {spec.dtype}", fix=fix)
        found = value.detach().to(getattr(torch, spec.dtype))
        if not value.is_floating_point() and not torch.equal(found.to(value.dtype), value):
            raise InputError(f"{what}: input {spec.name} holds numbers that {spec.dtype} has not", fix=fix)
        return found


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


def other_outputs(output: Any) -> tuple[str, ...]:
    """Names of what a model returned beside tensors: numbers, text. None and empty containers are nothing."""
    by_path, _ = pytree.tree_flatten_with_path(output)
    return tuple(_readable_output(path) for path, leaf in by_path if leaf is not None and not isinstance(leaf, Tensor))


def _argument_names(forward: Any, count: int) -> list[str]:
    try:
        parameters = list(signature(forward).parameters.values())
        positional = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):  # code of C; a scripted module's knows its arguments
        positional = [argument.name for argument in forward.schema.arguments[1:]] if hasattr(forward, "schema") else []
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
    """``text`` as a name that a graph's input can have: letters, digits and underscores, and nothing that Python reserves."""
    name = "".join(character if character.isalnum() else "_" for character in text)
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name


def _unique(specs: list[TensorSpec]) -> tuple[TensorSpec, ...]:
    if len({spec.name for spec in specs}) == len(specs):
        return tuple(specs)
    return tuple(TensorSpec(name=f"{s.name}_{i}", shape=s.shape, dtype=s.dtype) for i, s in enumerate(specs))
