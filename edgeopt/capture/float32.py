"""Floats of other widths become float32: no target computes in float64, and ranges are found in float32."""

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.node import map_aggregate

from edgeopt.capture.graph_tensors import is_constant, set_tensor, tensor_at

aten = torch.ops.aten

OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


def as_float32(dtype: Any) -> Any:
    """float32 for float16, bfloat16 and float64; anything else as it is."""
    return torch.float32 if dtype in OTHER_FLOATS else dtype


def low_precision(program: ExportedProgram) -> frozenset[torch.dtype]:
    """The 16-bit floats among the values of ``program``, those under autocast included."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    values = (node.meta.get("val") for graph in graphs for node in graph.nodes)
    return frozenset(value.dtype for value in values if isinstance(value, Tensor)) & {torch.float16, torch.bfloat16}


def to_float32(module: GraphModule) -> int:
    """Converts the stored tensors and the dtypes that operators name, in branches of control flow too; how many there were.

    The inputs that the module takes are then float32 as well; the values in ``meta`` stay what they were.
    """
    changed = 0
    graphs = [part for part in module.modules() if isinstance(part, GraphModule)]
    for owner in graphs:
        for node in list(owner.graph.nodes):
            if node.target is aten._assert_tensor_metadata.default:
                owner.graph.erase_node(node)
            elif is_constant(owner, node):
                changed += _convert(owner, str(node.target))
            elif node.op == "call_function":
                arguments = map_aggregate((node.args, dict(node.kwargs)), _named)
                changed += arguments != (node.args, dict(node.kwargs))
                node.args, node.kwargs = arguments
        owner.recompile()
    return changed


def _named(argument: Any) -> Any:
    return as_float32(argument) if isinstance(argument, torch.dtype) else argument


def _convert(module: GraphModule, path: str) -> int:
    value = tensor_at(module, path)
    if value.dtype not in OTHER_FLOATS:
        return 0
    set_tensor(module, path, value.detach().float())
    return 1
