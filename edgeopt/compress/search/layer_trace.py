"""The layers that a runtime will execute for a module, each as a small module of its own that can be exported and timed.

They are cut from the canonical program, the one that every artifact is made of, where batch norms are folded
(:mod:`edgeopt.capture.layer_calls`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgeopt.capture import capture, layer_calls, operator_kinds
from edgeopt.model.model import Batch, Model


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
    return tuple(_layer(nodes, constants) for nodes in layer_calls.layers(program.graph, set(constants)))


def _constants(program: ExportedProgram) -> dict[Node, Tensor]:
    """The program's placeholders that are weights, with their values."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    values = {**program.constants, **program.state_dict}
    placeholders = program.graph.find_nodes(op="placeholder")
    return {node: values[names[node.name]].detach() for node in placeholders if node.name in names}


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
        call=layer_calls.call(nodes),
        form=layer_calls.form(nodes),
        work=sum(map(operator_kinds.macs, nodes)) or sum(map(layer_calls.elements, nodes)),
        module=GraphModule(root, graph).eval(),
        example=tuple(_filled(node) for node in inputs),
    )


def _filled(node: Node) -> Tensor:
    """Values for an input: noise for floats; zeros for integers, which are valid indices of anything; true for masks."""
    value = operator_kinds.value_of(node)
    shape = tuple(int(size) for size in value.shape)
    if value.is_floating_point():
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(value.dtype)
    return torch.ones(shape, dtype=value.dtype) if value.dtype == torch.bool else torch.zeros(shape, dtype=value.dtype)
