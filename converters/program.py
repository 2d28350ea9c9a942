"""The saved program as every converter reads it, and a converter's refusal told in the user's terms."""

import itertools
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from edgeopt.errors import ConversionError, EdgeoptError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


@dataclass(frozen=True, slots=True)
class Program:
    """``exported`` takes one positional tensor for each of ``input_names`` and returns a flat tuple of tensors."""

    exported: "ExportedProgram"
    input_names: tuple[str, ...]
    examples: "tuple[Tensor, ...]"
    """Zeros with each input's shape and dtype: to trace with, never to measure."""

    @property
    def quantized(self) -> bool:
        """Whether it holds Q/DQ nodes."""
        return any("quantized_decomposed" in str(node.target) for node in self.exported.graph.nodes)

    def again(self, module: "GraphModule") -> "Program":
        """This program with the edited graph of ``module``: its own inputs and outputs, other operators between them."""
        import torch

        with torch.no_grad():
            return replace(self, exported=torch.export.export(module, self.examples, strict=False))


def load_program(path: Path, extra_files: dict[str, str] | None = None) -> Program:
    """The program that ``torch.export.save`` wrote to ``path``; the named ``extra_files`` are filled in.

    Raises ConversionError where torch cannot read it.
    """
    import torch
    import torchao  # noqa: F401  registers torch.ops.quantized_decomposed, which the file's graph names

    try:
        exported = torch.export.load(path, extra_files=extra_files)
    except Exception as error:
        raise ConversionError(f"the program {path.name} cannot be read", why=first_line(error)) from error
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    names = tuple(str(name) for name in exported.graph_signature.user_inputs)
    values = [nodes[name].meta["val"] for name in names]
    examples = tuple(torch.zeros([int(size) for size in value.shape], dtype=value.dtype) for value in values)
    return Program(exported, names, examples)


def distinct_names(outputs: tuple[str, ...], inputs: tuple[str, ...]) -> tuple[str, ...]:
    """``outputs``, with ``_output`` added to those that an input is called too: a file's tensor names are unique.

    A name that is taken even so, or that two outputs have, gets a number.
    """
    found: list[str] = []
    for name in outputs:
        wanted = f"{name}_output" if name in inputs else name
        taken = {*inputs, *found, *(other for other in outputs if other != name)}
        others = (f"{wanted}_{number}" for number in itertools.count(2))
        found.append(next(each for each in itertools.chain((wanted,), others) if each not in taken))
    return tuple(found)


@contextmanager
def refusals(converter: str, fix: str) -> Iterator[None]:
    """Turns whatever ``converter`` raises into a ConversionError that names the operator and the user's layer."""
    try:
        yield
    except (EdgeoptError, MemoryError):
        raise
    except Exception as error:  # converters raise anything, SystemExit aside
        why = first_line(_chain(error)[-1])
        operator, layer = _culprit(error)
        if not operator and (place := _PLACE.search(str(_chain(error)[-1]))):
            layer, operator, why = place["layer"], place["operator"], place["why"][:_LONGEST]
        subject = f"the operator {operator}" + (f" of layer {layer}" if layer else "") if operator else "the program"
        raise ConversionError(f"{converter} refused {subject}", why=why, fix=fix) from error


def mark_places(exported: "ExportedProgram") -> None:
    """Operators get their layers for the place in the source that they came from: compilers name nothing else in what they
    refuse, and of a model of torch's own layers that is a line of torch's.
    """
    from edgeopt.capture import layer_path

    for node in exported.graph.nodes:
        if node.op == "call_function":
            node.meta["stack_trace"] = (
                f'File "layer {layer_path(node)} operator {node.target}", line 1, in forward\n    forward\n'
            )


_LONGEST = 300
_PLACE = re.compile(r"layer (?P<layer>\S*) operator (?P<operator>\S+?):\d+:\d+: error: (?P<why>.*)")
"""As :func:`mark_places` has them, in a compiler's message."""


def first_line(error: BaseException) -> str:
    """The first line of ``error``'s message that says something, at most 300 characters; else its class."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:_LONGEST] for line in lines if line), type(error).__name__)


def _chain(error: BaseException) -> list[BaseException]:
    """``error`` and what led to it, the root last."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(cause)
    return found


def converted_node(error: BaseException, names: Container[str]) -> str:
    """Which of ``names`` the node has that a converter with nodes of its own worked on when it raised; empty where none."""
    for cause in reversed(_chain(error)):
        for frame, _ in reversed(list(walk_tb(cause.__traceback__))):
            name = getattr(frame.f_locals.get("node"), "name", None)
            if isinstance(name, str) and name in names:
                return name
    return ""


def _culprit(error: BaseException) -> tuple[str, str]:
    """Operator and module path of the graph node that a converter worked on when it raised; empty where none is found.

    Converters walk the graph node by node and say the operator at best, never the layer: the node itself is a local
    variable of the innermost frame that handled it.
    """
    from torch.fx import Node

    from edgeopt.capture import layer_path

    for cause in reversed(_chain(error)):
        for frame, _ in reversed(list(walk_tb(cause.__traceback__))):
            for value in frame.f_locals.values():
                if isinstance(value, Node) and value.op == "call_function":
                    return str(value.target), layer_path(value)
    return "", ""
