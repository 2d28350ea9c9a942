"""Which operations of a package belong to which layer of the PyTorch model.

coremltools carries a node's debug handle, a number of ExecuTorch's, through all its passes to every operation that it makes of
the node (converters/mil/mil/scope.py, EXIR_DEBUG_HANDLE). Names would not do: its own are like those of nodes.
"""

from typing import TYPE_CHECKING, Any

from edgeopt.mil.loading import operations

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def mark(exported: "ExportedProgram") -> dict[int | None, str]:
    """Numbers the nodes of ``exported``; their layers by these numbers, empty where a node has none."""
    from edgeopt.capture import layer_path

    found: dict[int | None, str] = {}
    for number, node in enumerate(exported.graph.nodes):
        node.meta["debug_handle"] = number
        found[number] = layer_path(node)
    return found


def layers(program: Any, marks: dict[int | None, str]) -> dict[str, list[str]]:
    """The operations of each layer, by their first outputs, in the order of the MIL ``program``."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    found: dict[str, list[str]] = {}
    for function in program.functions.values():
        for operation in operations(function):
            marked = operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or (None,)
            layer = marks.get(marked[0], "")
            if layer and operation.op_type != "const":
                found.setdefault(layer, []).append(operation.outputs[0].name)
    return found
