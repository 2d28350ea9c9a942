"""A converter's refusal told in the user's terms: the operator, its layer, and the user's line."""

import operator
import re
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from edgeopt.converters.program import LONGEST, Program, first_line, load_program
from edgeopt.errors import ConversionError, EdgeoptError
from edgeopt.model.user_code import line_in

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_LINE = "users_line"
_NOT_THE_USERS = ("quantized_decomposed", "getitem", "assert")
_PLACE = re.compile(r"layer (?P<layer>\S*) operator (?P<operator>\S+?):\d+:\d+: error: (?P<why>.*)")
"""As :func:`mark_places` has them, in a compiler's message."""


class Unnamed(ConversionError):
    """A refusal that names no operator. :func:`named` finds which it is."""

    def __init__(self, converter: str, *, why: str, fix: str, what: str = "the program") -> None:
        self.converter = converter
        super().__init__(f"{converter} refused {what}", why=why, fix=fix)


@contextmanager
def refusals(converter: str, fix: str, exported: "ExportedProgram") -> Iterator[None]:
    """Turns whatever ``converter`` raises into a ConversionError that names the operator, and the user's layer and line."""
    try:
        yield
    except (EdgeoptError, MemoryError):
        raise
    except Exception as error:  # converters raise anything, SystemExit aside
        why = first_line(_chain(error)[-1])
        target, layer = _culprit(error)
        if not target and (place := _PLACE.search(str(_chain(error)[-1]))):
            layer, target, why = place["layer"], place["operator"], place["why"][:LONGEST]
        if not target:
            raise Unnamed(converter, why=why, fix=fix) from error
        raise ConversionError(f"{converter} refused {_subject(exported, target, layer)}", why=why, fix=fix) from error


def mark_places(exported: "ExportedProgram") -> None:
    """Operators get their layers for the place in the source that they came from: compilers name nothing else in what they
    refuse, and of a model of torch's own layers that is a line of torch's.
    """
    from edgeopt.capture import layer_path

    for node in exported.graph.nodes:
        if node.op == "call_function":
            node.meta[_LINE] = line_in(node.meta.get("stack_trace") or "")
            node.meta["stack_trace"] = (
                f'File "layer {layer_path(node)} operator {node.target}", line 1, in forward\n    forward\n'
            )


def place_of(node: "Node", name: str = "") -> str:
    """``the operator aten.topk.default of layer head, at net.py, line 12: x.topk(3)``, as far as it is known."""
    from edgeopt.capture import layer_path

    layer = layer_path(node)
    line = node.meta.get(_LINE) or line_in(node.meta.get("stack_trace") or "")
    return f"the operator {name or node.target}" + (f" of layer {layer}" if layer else "") + (f", at {line}" if line else "")


def named(error: Unnamed, path: Path, attempt: Callable[[Path], object], folder: Path) -> ConversionError:
    """``error`` with the operator that it is of: the first of the program at ``path`` that ``attempt`` refuses for that reason.

    ``attempt`` gets programs of one operator each, saved in ``folder``. As it was where no operator is refused alone.
    """
    import torch

    program, tried = load_program(path), set()
    for node in program.exported.module(check_guards=False).graph.nodes:
        if (
            node.op != "call_function"
            or node.meta.get("val") is None
            or any(part in str(node.target) for part in _NOT_THE_USERS)
        ):
            continue
        try:
            alone, key = _alone(program, node)
        except Exception:  # what cannot be captured by itself cannot be tried
            continue
        if key in tried:
            continue
        tried.add(key)
        torch.export.save(alone, single := folder / "operator.pt2")
        try:
            attempt(single)
        except Exception as refused:
            if _plain(getattr(refused, "why", "")) != _plain(error.why):
                continue
            return ConversionError(f"{error.converter} refused {place_of(node)}", why=error.why, fix=error.fix)
    return ConversionError(error.what, why=error.why, fix=error.fix)


def _plain(why: str) -> str:
    """Without what changes from program to program."""
    return re.sub(r"[\d_]+", "", why)


def _alone(program: Program, node: "Node") -> "tuple[ExportedProgram, str]":
    """A program of ``node`` alone, on inputs of the shapes and dtypes that it has there, and what tells it from others."""
    import torch
    from torch.fx import Graph, GraphModule, Node
    from torch.fx import node as fx

    root, graph, copies = torch.nn.Module(), Graph(), dict[Node, Node]()
    source, examples = program.exported.module(check_guards=False), list[torch.Tensor]()
    for given in node.all_input_nodes:
        if given.op == "get_attr":
            setattr(root, given.name, operator.attrgetter(str(given.target))(source))
            copies[given] = graph.get_attr(given.name)
        else:
            value = given.meta["val"]
            examples.append(torch.ones([int(size) for size in value.shape], dtype=value.dtype))
            copies[given] = graph.placeholder(given.name)
    arguments = fx.map_arg((node.args, node.kwargs), lambda given: copies[given])
    call = graph.call_function(node.target, *arguments)  # type: ignore[arg-type]  # a callable: it is a call_function
    places = [user.args[1] for user in node.users if user.target is operator.getitem]
    graph.output(tuple(graph.call_function(operator.getitem, (call, place)) for place in places) or (call,))
    exported = torch.export.export(GraphModule(root, graph), tuple(examples), strict=False)
    kinds = [(tuple(value.shape), value.dtype) for value in examples]
    plain = fx.map_arg((node.args, node.kwargs), lambda given: given.op)
    return exported, f"{node.target} {kinds} {plain}"


def converted_node(error: BaseException, names: Container[str]) -> str:
    """Which of ``names`` the node has that a converter with nodes of its own worked on when it raised; empty where none."""
    for cause in reversed(_chain(error)):
        for frame, _ in reversed(list(walk_tb(cause.__traceback__))):
            name = getattr(frame.f_locals.get("node"), "name", None)
            if isinstance(name, str) and name in names:
                return name
    return ""


def _chain(error: BaseException) -> list[BaseException]:
    """``error`` and what led to it, the root last."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(cause)
    return found


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


def _subject(exported: "ExportedProgram", target: str, layer: str) -> str:
    """In words, with the line of the first such operator of the layer."""
    from edgeopt.capture import layer_path

    for node in exported.graph.nodes:
        if node.op == "call_function" and str(node.target) == target and layer_path(node) == layer:
            return place_of(node)
    return f"the operator {target}" + (f" of layer {layer}" if layer else "")
