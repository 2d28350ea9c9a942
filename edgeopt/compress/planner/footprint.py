"""How many bytes a model's artifact will have, computed from its graph and the target's scheme before anything is converted.

Weights of layers that the target computes in integers take one byte, with scales per output channel; biases four; everything
else is stored in the format's float type. What the file itself takes was measured per operator, see :data:`FILES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture import layer_of
from edgeopt.compress.planner.architecture import RECURRENT, stored_nodes, weight_of
from edgeopt.core import Format, QuantScheme
from edgeopt.kinds import kind_of, value_of
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class _File:
    """``base`` and ``operator``: bytes of a file and of each operator in it, ``integer`` where these are quantized."""

    base: int
    operator: int
    integer: int
    channel: int
    """Per output channel of a quantized weight: its scale, its zero point and, in ONNX, the bias's scale."""
    step: int = 0
    """Per time step of a recurrent layer, where the format has no operator for it and it is unrolled."""


FILES: dict[Format, _File] = {
    "onnx": _File(base=1_500, operator=130, integer=600, channel=10),
    "tflite": _File(base=2_500, operator=250, integer=700, channel=12, step=3_360),
    "coreml": _File(base=4_000, operator=450, integer=900, channel=6),
    "pt2": _File(base=20_000, operator=1_500, integer=1_500, channel=12),
}
"""Measured on the artifacts of four models (two CNNs, a GRU, a transformer), rounded; names of layers make most of it."""


def artifact_bytes(program: ExportedProgram, profile: TargetProfile, kept_float: frozenset[str] = frozenset()) -> int:
    """Expected bytes of the artifact of ``program``, a canonical one, in the first of the target's formats and schemes.

    ``kept_float``: layers that the target's plan leaves in float although it has integer kernels; also those below them.
    """
    form, scheme = profile.formats[0], profile.schemes[0]
    file, stored, layers = FILES[form], stored_nodes(program), _Integers(profile, scheme, kept_float)
    total = file.base
    for node in program.graph.nodes:
        if node in stored and node.users:
            total += _stored_bytes(node, stored, layers, form, file)
        elif node.op == "call_function":
            total += (file.integer if layers.computes(node) else file.operator) + file.step * _steps(node)
    return total


@dataclass(frozen=True, slots=True)
class _Integers:
    """Which operators the target computes in integers."""

    profile: TargetProfile
    scheme: QuantScheme
    kept_float: frozenset[str]

    def computes(self, node: Node) -> bool:
        if not self.scheme.integer or kind_of(node) not in self.profile.operators.integer:
            return False
        return not self.kept_float.intersection(_with_parents(layer_of(node)))


def _with_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _stored_bytes(node: Node, stored: set[Node], layers: _Integers, form: Format, file: _File) -> int:
    value = value_of(node)
    if not isinstance(value, Tensor):
        return 0
    numbers = int(value.numel())
    if not value.is_floating_point():
        return numbers * min(value.element_size(), 4)
    readers = [user for user in _readers(node) if layers.computes(user)]
    if any(weight_of(user, stored) is node for user in readers):
        channels = 0 if kind_of(readers[0]) == "embedding" else int(value.shape[0])
        return numbers + file.channel * channels
    is_half = form == "coreml" or layers.scheme.weight == "float16"
    return numbers * (4 if readers and layers.scheme.bias == "int32" else 2 if is_half and form != "onnx" else 4)


def _readers(node: Node) -> Iterator[Node]:
    """What computes with a stored value, seen through what only moves it."""
    for user in node.users:
        if kind_of(user) in ("reshape", "transpose", "slice") and user.args[0] is node:
            yield from _readers(user)
        else:
            yield user


def _steps(node: Node) -> int:
    """Time steps times layers and directions of a recurrent operator; 0 for every other one."""
    if node.target not in RECURRENT:
        return 0
    weights = next(list(arg) for arg in reversed(node.args) if isinstance(arg, list | tuple))
    cells = sum(1 for weight in weights if value_of(weight).ndim == 2) // 2
    values = value_of(node.args[0])  # type: ignore[arg-type]
    batch_first = bool(node.args[-1])
    return cells * int(values.shape[1 if batch_first and values.ndim == 3 else 0])
