"""Core ML names the variable that is an output: an input, or a variable that is an output already, cannot be one too."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_NOTHING = ("clone", "alias", "detach", "lift_fresh_copy")


def compute_outputs(exported: "ExportedProgram") -> None:
    """Puts an operator that changes nothing in front of such outputs; a copy would not do, since coremltools drops it."""
    from torch.export.graph_signature import OutputKind

    output = exported.graph.output_node()
    values: Any = list(output.args[0])
    seen: set[Node] = set()
    for index, spec in enumerate(exported.graph_signature.output_specs):
        source = _source(values[index])
        if spec.kind == OutputKind.USER_OUTPUT and (source.op == "placeholder" or source in seen):
            values[index] = _same(exported, values[index])
            spec.arg.name = values[index].name
        seen.add(source)
    output.args = (tuple(values),)
    exported.graph_module.recompile()


def _source(node: "Node") -> "Node":
    """What ``node`` is, behind the operators that coremltools takes for nothing."""
    while node.op == "call_function" and str(node.target).split(".")[1:2] in (
        ["clone"],
        ["alias"],
        ["detach"],
        ["lift_fresh_copy"],
    ):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _same(exported: "ExportedProgram", value: "Node") -> "Node":
    import torch

    is_bool = value.meta["val"].dtype == torch.bool
    operator, other = (torch.ops.aten.logical_or.default, value) if is_bool else (torch.ops.aten.mul.Tensor, 1)
    with exported.graph.inserting_before(exported.graph.output_node()):
        made: Node = exported.graph.call_function(operator, (value, other))
    made.meta = {"val": value.meta["val"]}
    return made
