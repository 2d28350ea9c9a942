"""Tensors stored beside a graph: reading, replacing and adding them; and operators' arguments by their names."""

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node


def argument(node: Node, name: str) -> Any:
    """The argument ``name`` of an operator's schema, by position, by name, or its default."""
    for index, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name == name:
            return node.args[index] if index < len(node.args) else node.kwargs.get(name, declared.default_value)
    raise KeyError(name)


def is_constant(module: nn.Module, value: object) -> bool:
    """Whether ``value`` is a node that gives a tensor stored in ``module``."""
    return isinstance(value, Node) and value.op == "get_attr" and isinstance(_at(module, str(value.target)), Tensor)


def tensor_at(module: nn.Module, path: str) -> Tensor:
    """The tensor at a dotted path below ``module``."""
    found = _at(module, path)
    assert isinstance(found, Tensor)
    return found


def set_tensor(module: nn.Module, path: str, value: Tensor) -> None:
    """Puts ``value`` where another tensor was; that one stays what it is."""
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    was_parameter = name in owner._parameters
    delattr(owner, name)
    if was_parameter:
        owner.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        owner.register_buffer(name, value)


def add_tensor(module: GraphModule, reader: Node, prefix: str, value: Tensor) -> Node:
    """A new constant in front of ``reader``, under a name that starts with ``prefix``."""
    number = 0
    while hasattr(module, f"{prefix}_{number}"):
        number += 1
    module.register_buffer(f"{prefix}_{number}", value.detach().clone().contiguous())
    with module.graph.inserting_before(reader):
        return module.graph.get_attr(f"{prefix}_{number}")


def _at(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module
