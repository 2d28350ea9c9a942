"""What a model is made of, told from its graph and from the operators that run: never from the names in it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture import capture, layer_of
from edgeopt.capture.operator_kinds import HEAVY, RECURRENT, WEIGHTED, kind_of, macs, value_of
from edgeopt.compress.common.measures import macs_by_layer, parameters
from edgeopt.core import data_class
from edgeopt.model.model import Batch, Model

Family = Literal["cnn", "transformer", "recurrent", "mlp", "mixed"]
LayerKind = Literal["convolution", "depthwise convolution", "grouped convolution", "linear", "recurrent", "embedding"]

CONVOLUTIONS: frozenset[LayerKind] = frozenset({"convolution", "depthwise convolution", "grouped convolution"})
SUBSTANTIAL = 0.1
"""Share of the multiply-accumulates from which a kind of computation says what the model is."""

aten = torch.ops.aten
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_MOVES = {"reshape", "transpose", "slice"}


@data_class
class WeightedLayer:
    """A layer with weights. ``inputs`` and ``outputs``: channels; of an embedding its rows and columns."""

    name: str
    kind: LayerKind
    parameters: int
    macs: int
    inputs: int
    outputs: int


@data_class
class Architecture:
    """``attention``: the modules that multiply by softmax's result. ``shares``: of the multiply-accumulates, by what they are.

    The family is what at least a tenth of the multiply-accumulates compute: convolutions (cnn), recurrent layers, attention
    with the linear layers around it (transformer); several of them are mixed, none of them is an mlp.
    """

    family: Family
    layers: tuple[WeightedLayer, ...]
    parameters: int
    macs: int
    attention: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)

    def share(self, kind: LayerKind) -> float:
        """Share of the parameters that layers of ``kind`` hold."""
        return sum(layer.parameters for layer in self.layers if layer.kind == kind) / max(self.parameters, 1)


def inspect(module: nn.Module, example_inputs: Batch, program: ExportedProgram | None = None) -> Architecture:
    """The architecture of ``module``; ``program`` saves a capture where the caller has its canonical program.

    Raises what :func:`edgeopt.capture.capture` raises where the model cannot be run or captured.
    """
    program = program or capture(Model(module, example_inputs)).program
    graph = _Graph(module, program)
    layers = graph.layers(macs_by_layer(module, example_inputs))
    products = sum(graph.products.values())
    shares = _shares(layers, products, bool(graph.attending))
    return Architecture(
        family=_family(shares),
        layers=layers,
        parameters=parameters(module),
        macs=sum(layer.macs for layer in layers) + products,
        attention=tuple(dict.fromkeys(map(graph.path, graph.attending))),
        shares=shares,
    )


class _Graph:
    """The operators of a captured model, and what is known of them. ``products``: activations times activations, by module."""

    def __init__(self, module: nn.Module, program: ExportedProgram) -> None:
        self._modules, self._stored = dict(module.named_modules()), stored_nodes(program)
        self._nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        unweighted = [node for node in self._nodes if kind_of(node) == "matmul" and weight_of(node, self._stored) is None]
        self.attending = [node for node in unweighted if _reads_softmax(node)]
        self.products = Counter[str]()
        for node in unweighted:
            self.products[self.path(node)] += macs(node)

    def path(self, node: Node) -> str:
        """The module that computes ``node``, "" for the model itself."""
        name = layer_of(node)
        return name if name in self._modules else ""

    def layers(self, macs_of: dict[str, int]) -> tuple[WeightedLayer, ...]:
        """In the order in which they run; a layer that runs several times stands there once, with all it computes."""
        weights = _recurrent_weights(self._nodes, self._stored, self.attending)
        repeated = {self.path(node) for node in self._nodes if weight_of(node, self._stored) in weights}
        found: dict[str, WeightedLayer] = {}
        for node in self._nodes:
            name, shaped = self.path(node), _shaped(node, self._stored)
            if shaped is not None and name not in found:
                kind, inputs, outputs = shaped
                own = sum(value.numel() for value in self._modules[name].parameters(recurse=bool(name)))
                found[name] = WeightedLayer(
                    name=name, kind="recurrent" if name in repeated else kind, parameters=own, inputs=inputs, outputs=outputs,
                    macs=macs_of.get(name, 0) - self.products[name],
                )  # fmt: skip
        return tuple(found.values())


def _shaped(node: Node, stored: set[Node]) -> tuple[LayerKind, int, int] | None:
    """Kind and channels of the layer that ``node`` computes with weights; None where it has none."""
    kind, weight = kind_of(node), weight_of(node, stored)
    if node.target in RECURRENT:
        return "recurrent", int(value_of(node.args[0]).shape[-1]), int(value_of(_weights(node)[1]).shape[1])  # type: ignore[arg-type]
    if weight is None:
        return None
    shape = [int(size) for size in value_of(weight).shape]
    if kind == "embedding":
        return "embedding", shape[0], shape[1]
    if kind in ("conv", "conv_transpose"):
        groups = _groups(node)
        inputs, outputs = (shape[1] * groups, shape[0]) if kind == "conv" else (shape[0], shape[1] * groups)
        named: LayerKind = "depthwise convolution" if groups == inputs else "grouped convolution"
        return ("convolution" if groups == 1 else named), inputs, outputs
    if kind == "linear":
        return "linear", shape[1], shape[0]
    return "linear", int(value_of(_left(node)).shape[-1]), int(value_of(node).shape[-1])


def _groups(node: Node) -> int:
    return int(node.args[6]) if len(node.args) > 6 else 1  # type: ignore[arg-type]


def stored_nodes(program: ExportedProgram) -> set[Node]:
    """Nodes that bring parameters and buffers into the graph."""
    signature = program.graph_signature
    names = {*signature.inputs_to_parameters, *signature.inputs_to_buffers, *signature.inputs_to_lifted_tensor_constants}
    return {node for node in program.graph.nodes if node.name in names}


def weight_of(node: Node, stored: set[Node]) -> Node | None:
    """The stored weight that ``node`` multiplies by or looks up in; None for every other operator."""
    if kind_of(node) in WEIGHTED:
        return _source(node.args[1], stored)
    if kind_of(node) == "embedding":
        return _source(node.args[0], stored)
    if kind_of(node) == "matmul":
        return _source(node.args[1], stored) or _source(node.args[0], stored)
    return _source(node.args[2], stored) if node.target is aten.addmm.default else None


def _source(value: Any, stored: set[Node]) -> Node | None:
    """The stored tensor of which ``value`` is another view."""
    while isinstance(value, Node) and value not in stored and kind_of(value) in _MOVES:
        value = value.args[0]
    return value if isinstance(value, Node) and value in stored else None


def _weights(node: Node) -> list[Node]:
    """Of a recurrent operator: input weights, hidden weights, biases, for each layer and direction."""
    lists: list[list[Node]] = [list(arg) for arg in node.args if isinstance(arg, list | tuple)]  # type: ignore[arg-type]
    return lists[-1]  # an LSTM's first list is its state


def _left(node: Node) -> Node:
    return node.args[1 if node.target is aten.addmm.default else 0]  # type: ignore[return-value]


def _reads_softmax(node: Node) -> bool:
    """Whether a softmax reaches ``node`` with no other product between: attention's weights times its values."""
    return any(value.target in _SOFTMAX for value in _upstream(node.all_input_nodes, through=lambda one: not _is_product(one)))


def _is_product(node: Node) -> bool:
    return kind_of(node) in HEAVY or node.target in RECURRENT or node.target is aten.addmm.default


def _upstream(start: Iterable[Node], through: Callable[[Node], bool]) -> Iterator[Node]:
    """``start`` and what they are computed from, beyond a node only where ``through`` lets pass."""
    waiting, seen = list(start), set[Node]()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += node.all_input_nodes if through(node) else ()


def _recurrent_weights(nodes: list[Node], stored: set[Node], attending: list[Node]) -> set[Node]:
    """Weights that multiply what depends on their own earlier products: one cell run step after step.

    With attention between two uses it is a layer of a transformer whose depth shares weights (ALBERT), not a step in time.
    """
    uses: dict[Node, list[Node]] = {}
    for node in nodes:
        weight = weight_of(node, stored)
        if weight is not None and kind_of(node) != "embedding":
            uses.setdefault(weight, []).append(node)
    found = set()
    for weight, users in uses.items():
        if len(users) > 1:
            before = set(_upstream([users[-1]], through=lambda one: True))
            between = any(node in before and users[0] in _upstream([node], through=lambda one: True) for node in attending)
            if users[0] in before and not between:
                found.add(weight)
    return found


def _shares(layers: tuple[WeightedLayer, ...], products: int, attends: bool) -> dict[str, float]:
    """What computes which share: convolutions, recurrent layers, linear layers, and products of activations."""
    sums = Counter[str]()
    for layer in layers:
        sums["convolution" if layer.kind in CONVOLUTIONS else layer.kind] += layer.macs
    sums["attention" if attends else "other"] += products
    total = sum(sums.values())
    return {kind: count / total for kind, count in sums.items() if count}


def _family(shares: dict[str, float]) -> Family:
    parts: dict[Family, float] = {
        "cnn": shares.get("convolution", 0.0),
        "recurrent": shares.get("recurrent", 0.0),
        "transformer": shares["attention"] + shares.get("linear", 0.0) if "attention" in shares else 0.0,
    }
    found = [family for family, share in parts.items() if share >= SUBSTANTIAL]
    return found[0] if len(found) == 1 else "mixed" if found else "mlp"
