"""A TFLite file that somebody else wrote: bounded before it is read into objects, and whole before indices are followed.

A flatbuffer's vectors may all be the same bytes: a file of one megabyte can have a million tensors with a million sizes each.
Every vector that is honestly stored takes at least a byte for each element, so no file has more elements than bytes.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from ai_edge_litert import schema_py_generated as schema

TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_OPTIONS = {code: name for name, code in vars(schema.BuiltinOptions).items() if isinstance(code, int) and code}
_OPTIONS_2 = {code: name for name, code in vars(schema.BuiltinOptions2).items() if isinstance(code, int) and code}


def check_size(content: bytes) -> None:
    """Raises ValueError where the file has more elements than bytes; what a broken offset raises passes through."""
    left = len(content)
    for length in _lengths(schema.Model.GetRootAs(content, 0)):
        left -= length
        if left < 0:
            raise ValueError("its vectors have more elements than it has bytes")


def check_indices(model: Any) -> None:
    """Raises ValueError where ``model``, a ``ModelT``, lacks a part or points at one that is not there.

    Vectors that are left out, as the format allows, are empty ones afterwards.
    """
    for owner, name in ((model, "subgraphs"), (model, "operatorCodes"), (model, "buffers"), (model, "signatureDefs")):
        _fill(owner, name)
    if not model.subgraphs:
        raise ValueError("it has no graph")
    for graph in model.subgraphs:
        for name in ("tensors", "operators", "inputs", "outputs"):
            _fill(graph, name)
        for tensor in graph.tensors:
            _within(tensor.buffer, model.buffers, "a tensor's buffer")
            if tensor.type not in TYPES:
                raise ValueError(f"a tensor is of the type {tensor.type}, which is not known")
        for index in (*graph.inputs, *graph.outputs):
            _within(index, graph.tensors, "an input or output")
        for operator in graph.operators:
            _check_operator(operator, model, graph)
    for signature in model.signatureDefs:
        _fill(signature, "inputs")
        _fill(signature, "outputs")


def _check_operator(operator: Any, model: Any, graph: Any) -> None:
    for name in ("inputs", "outputs"):
        _fill(operator, name)
    _within(operator.opcodeIndex, model.operatorCodes, "an operator's code")
    for index in (*(each for each in operator.inputs if each != -1), *operator.outputs):  # -1: an input that is left out
        _within(index, graph.tensors, "an operator's tensor")


def _fill(owner: Any, name: str) -> None:
    found = getattr(owner, name)
    if found is None:
        setattr(owner, name, [])
    elif any(each is None for each in found):
        raise ValueError(f"it has {name} that are nothing")


def _within(index: int, among: Any, what: str) -> None:
    if not 0 <= index < len(among):
        raise ValueError(f"{what} is number {index} of {len(among)}")


def _lengths(model: Any) -> Iterator[int]:
    """Of each vector that is made into objects, outer ones before those inside."""
    yield from _own(model)
    for number in range(model.SignatureDefsLength()):
        yield from _own(model.SignatureDefs(number))
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        yield from _own(graph)
        for index in range(graph.TensorsLength()):
            yield from _of_tensor(graph.Tensors(index))
        for index in range(graph.OperatorsLength()):
            yield from _of_operator(graph.Operators(index))


def _of_tensor(tensor: Any) -> Iterator[int]:
    yield from _own(tensor)
    yield from _own(tensor.Quantization())
    sparsity = tensor.Sparsity()
    yield from _own(sparsity)
    for number in range(sparsity.DimMetadataLength() if sparsity is not None else 0):
        dimension = sparsity.DimMetadata(number)
        yield from _own(dimension)
    for number in range(tensor.VariantTensorsLength()):
        yield from _own(tensor.VariantTensors(number))


def _of_operator(operator: Any) -> Iterator[int]:
    yield from _own(operator)
    for known, kind, options in (
        (_OPTIONS, operator.BuiltinOptionsType(), operator.BuiltinOptions()),
        (_OPTIONS_2, operator.BuiltinOptions2Type(), operator.BuiltinOptions2()),
    ):
        made = getattr(schema, known.get(kind, ""), None)
        if made is not None and options is not None:
            table = made()
            table.Init(options.Bytes, options.Pos)
            yield from _own(table)


def _own(table: Any) -> Iterator[int]:
    """Of the vectors of ``table`` itself; nothing where it is None."""
    if table is not None:
        for length in _length_methods(type(table).__name__):
            yield int(length(table))


@cache
def _length_methods(name: str) -> tuple[Callable[[Any], int], ...]:
    kind = getattr(schema, name)
    return tuple(getattr(kind, name) for name in dir(kind) if name.endswith("Length"))
