"""The layers that a runtime will execute for a module, each as a small module of its own that can be exported and timed.

They are cut from the canonical program, the one that every artifact is made of: batch norms are folded, and an activation
belongs to the layer before it, as runtimes fuse it. Reshaping costs nothing; constants are computed once.
"""

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from edgeopt.capture import capture, operator_kinds
from edgeopt.model.model import Batch, Model
from edgeopt.model.signature import dtype_name

_FREE = frozenset({"reshape", "getitem"})
_ACTIVATIONS = frozenset(
    {"relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "gelu", "leaky_relu", "elu", "prelu"}
)
_SIZED = frozenset({"layer_norm", "group_norm"})
"""Kinds with sizes among their arguments: those do not tell one kernel from another."""


@dataclass(frozen=True, slots=True)
class TracedLayer:
    """``call``: operators, shapes and settings, the same text for layers that take the same time. ``form``: the text without
    sizes: layers of one form run the same kernels. ``work``: multiply-accumulates, or numbers written where there are none.
    """

    call: str
    form: str
    work: int
    module: nn.Module
    example: tuple[Tensor, ...]


def layers_of(module: nn.Module, example_inputs: Batch) -> tuple[TracedLayer, ...]:
    """Every layer of ``module`` in the order of its program, equal ones as often as they run.

    Raises what capturing raises: ForwardError, CaptureError, NotFiniteError.
    """
    program = capture(Model(module, example_inputs)).program
    constants = _constants(program)
    return tuple(_layer(nodes, constants) for nodes in _groups(program.graph, set(constants)))


def _constants(program: ExportedProgram) -> dict[Node, Tensor]:
    """The program's placeholders that are weights, with their values."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    values = {**program.constants, **program.state_dict}
    placeholders = program.graph.find_nodes(op="placeholder")
    return {node: values[names[node.name]].detach() for node in placeholders if node.name in names}


def _groups(graph: Graph, constants: set[Node]) -> Iterator[list[Node]]:
    """Operators that run as one: each alone, but activations with what they follow."""
    depends = {node for node in graph.find_nodes(op="placeholder") if node not in constants}
    groups: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not depends.intersection(node.all_input_nodes):
            continue
        depends.add(node)
        before = node.all_input_nodes[0]
        if _kind(node) in _ACTIVATIONS and before in groups and len(before.users) == 1:
            groups[node] = groups.pop(before)
            groups[node].append(node)
        elif _kind(node) not in _FREE:
            groups[node] = [node]
    yield from groups.values()


def _layer(nodes: list[Node], constants: dict[Node, Tensor]) -> TracedLayer:
    graph, copies, attributes = Graph(), dict[Node, Node](), dict[str, Tensor]()
    outside = dict.fromkeys(one for node in nodes for one in node.all_input_nodes if one not in nodes)
    inputs = [node for node in outside if node not in constants]
    for number, node in enumerate(inputs):
        copies[node] = graph.placeholder(f"input_{number}")
    for number, node in enumerate(one for one in outside if one in constants):
        attributes[f"constant_{number}"] = constants[node].clone()
        copies[node] = graph.get_attr(f"constant_{number}")
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[-1]])
    root = nn.Module()
    for name, value in attributes.items():
        root.register_buffer(name, value)
    return TracedLayer(
        call=" > ".join(_text(node, nodes, sized=True) for node in nodes),
        form=" > ".join(_text(node, nodes, sized=False) for node in nodes),
        work=sum(map(operator_kinds.macs, nodes)) or sum(map(_elements, nodes)),
        module=GraphModule(root, graph).eval(),
        example=tuple(_filled(node) for node in inputs),
    )


def _kind(node: Node) -> str:
    if node.target is operator.getitem:
        return "getitem"
    return operator_kinds.kind_of(node) or str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def _elements(node: Node) -> int:
    return sum(value.numel() for value in pytree.tree_leaves(operator_kinds.value_of(node)) if isinstance(value, Tensor))


def _text(node: Node, nodes: list[Node], *, sized: bool) -> str:
    """``conv(float32[1,16,14,14], float32[16,16,3,3], [1, 1])``; unsized ``conv(float32[4], float32[kernel 3,3], [1, 1])``."""
    kind = _kind(node)
    if not sized and kind in _SIZED:
        return kind
    arguments: Iterable[Any] = [*node.args, *node.kwargs.values()]
    said = [_argument(one, node, nodes, sized) for one in arguments]
    return f"{kind}({', '.join(one for one in said if one)})"


def _argument(value: Any, node: Node, nodes: list[Node], sized: bool) -> str:
    if isinstance(value, list | tuple) and any(isinstance(one, Node) for one in value):
        return "[" + ", ".join(_argument(one, node, nodes, sized) for one in value) + "]"
    if not isinstance(value, Node):
        depthwise = not sized and value == _channels(node) and len(node.args) == 7 and value is node.args[6]
        return "depthwise" if depthwise else str(value)
    if value in nodes:
        return ""
    found = operator_kinds.value_of(value)
    if not isinstance(found, Tensor):
        return str(type(found).__name__)
    weight = operator_kinds.kind_of(node) in operator_kinds.WEIGHTED and value is node.args[1]
    shape = list(found.shape) if sized else [f"{found.ndim} axes", *found.shape[2:]] if weight else [f"{found.ndim} axes"]
    return f"{dtype_name(found.dtype)}[{','.join(map(str, shape))}]"


def _channels(node: Node) -> int:
    """Of the input of a convolution; 1 for anything else, which no group count is compared with."""
    value = operator_kinds.value_of(node.all_input_nodes[0])
    return (
        int(value.shape[1]) if isinstance(value, Tensor) and value.ndim > 1 and operator_kinds.kind_of(node) == "conv" else -1
    )


def _filled(node: Node) -> Tensor:
    """Values for an input: noise for floats; zeros for integers, which are valid indices of anything; true for masks."""
    value = operator_kinds.value_of(node)
    shape = tuple(int(size) for size in value.shape)
    if value.is_floating_point():
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(value.dtype)
    return torch.ones(shape, dtype=value.dtype) if value.dtype == torch.bool else torch.zeros(shape, dtype=value.dtype)
