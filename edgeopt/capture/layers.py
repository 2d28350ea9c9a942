"""Which layer of the user's model a node of its program comes from."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgeopt.model.user_code import line_in


def layer_of(node: torch.fx.Node) -> str:
    """The user's module path that ``node`` came from, such as ``features.0.1``; the node's own name where there is none."""
    return layer_path(node) or node.name


def layer_path(node: torch.fx.Node) -> str:
    """As :func:`layer_of`, but empty where there is none: for the model itself, and for what no module made."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(path) for path, _ in reversed(list(stack.values())) if path), "").removeprefix("L['self'].")
    return "" if path == "module" else path.removeprefix("module.")  # Flat's, around the user's model


def failing_layer(module: GraphModule, sample: tuple[Tensor, ...]) -> tuple[str, str]:
    """The layer of the program at which ``sample`` makes it raise, and the user's line of it; each empty where not known."""
    found: list[torch.fx.Node] = []

    class Finder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            found.append(node)
            return super().run_node(node)

    with torch.no_grad(), suppress(Exception):
        Finder(module).run(*sample)
    last = found[-1]
    return layer_path(last), line_in(last.meta.get("stack_trace") or "")
