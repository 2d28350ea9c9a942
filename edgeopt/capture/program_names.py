"""The names that a program's inputs have: converters show them to users."""

from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.core import TensorSpec


def name_inputs(program: ExportedProgram, named: tuple[TensorSpec, ...]) -> None:
    """Placeholders get the names of the model's own arguments, also those that Python's own functions have (``input``)."""
    _follow_copy(program)
    nodes = {node.name: node for node in program.graph.nodes}
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    inputs = {str(spec.arg.name): nodes[str(spec.arg.name)] for spec in specs}
    wanted = {spec.name for spec in named}
    for name in wanted & (nodes.keys() - inputs.keys()):
        _rename(program, nodes[name], f"{name}_value")
    for number, node in enumerate(inputs.values()):  # one may have the name that another is to get
        _rename(program, node, f"edgeopt_input_{number}")
    for spec, node in zip(named, inputs.values(), strict=True):
        old, node.name, node.target = node.name, spec.name, spec.name  # fx itself would make input_1 of input
        _follow(program, old, spec.name)
    program.graph_module.recompile()


def _follow_copy(program: ExportedProgram) -> None:
    """The signature names the inputs as the graph does: of a copied program fx renames those that Python's functions have."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    signature = program.graph_signature
    renamed = {str(s.arg.name): node.name for s, node in zip(signature.input_specs, placeholders, strict=True)}
    for spec in (*signature.input_specs, *signature.output_specs):
        name = getattr(spec.arg, "name", None)
        if name in renamed:
            spec.arg.name = renamed[name]


def _rename(program: ExportedProgram, node: Node, name: str) -> None:
    old = node.name
    node._rename(name)
    if node.op == "placeholder":
        node.target = node.name
    _follow(program, old, node.name)


def _follow(program: ExportedProgram, old: str, new: str) -> None:
    """The signature goes on naming the same value."""
    signature = program.graph_signature
    for spec in (*signature.input_specs, *signature.output_specs):
        if getattr(spec.arg, "name", None) == old:
            spec.arg.name = new
