"""How many bytes a model's artifact will have, computed from its graph and the target's scheme before anything is converted.

Weights of layers that the target computes in integers take one byte, with scales per output channel; biases four; everything
else is stored in the format's float type. For the rest of the file see :mod:`edgeopt.compress.advice.overheads`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import HEAVY, RECURRENT, WEIGHTED, kind_of, value_of
from edgeopt.compress.advice.architecture import stored_nodes, weight_of
from edgeopt.compress.advice.overheads import FEWEST_NUMBERS, FILES, operator_bytes, tensor_bytes
from edgeopt.core import Format, QuantScheme
from edgeopt.targets.schema import TargetProfile


def artifact_bytes(program: ExportedProgram, profile: TargetProfile, kept_float: frozenset[str] = frozenset()) -> int:
    """Expected bytes of the artifact of ``program``, a canonical one, in the first of the target's formats and schemes.

    ``kept_float``: layers that the target's plan leaves in float although it has integer kernels; also those below them.
    """
    parts = _parts(program, profile, kept_float).values()
    return FILES[profile.formats[0]].base + sum(part.matrices + part.vectors + part.operators for part in parts)


def has_integers(program: ExportedProgram, profile: TargetProfile, kept_float: frozenset[str] = frozenset()) -> bool:
    """Whether the target computes any product in integers; arguments as of :func:`artifact_bytes`."""
    layers = _Integers(profile, profile.schemes[0], kept_float)
    return any(layers.computes(node) for node in program.graph.nodes if kind_of(node) in HEAVY)


class Footprint:
    """What the artifact of a module takes, module by module: tells the bytes of compressed copies without capturing them.

    Techniques leave a layer in its place, narrower or as several that follow each other, or take away whole modules. So a
    module's weights count in proportion to their numbers, its biases and scales to its channels, its operators to its layers.
    Arguments as of :func:`artifact_bytes`; ``program`` is that of ``module``.
    """

    def __init__(
        self, module: nn.Module, program: ExportedProgram, profile: TargetProfile, kept_float: frozenset[str] = frozenset()
    ) -> None:
        self._base, self._parts = FILES[profile.formats[0]].base, _parts(program, profile, kept_float)
        self._paths = frozenset(name for name, _ in module.named_modules())
        self._before = self._extents(module)

    def bytes(self, module: nn.Module) -> int:
        """Expected bytes of the artifact of ``module``, made of the original by techniques."""
        now, paths = self._extents(module), frozenset(name for name, _ in module.named_modules())
        total = float(self._base)
        for path, part in self._parts.items():
            before, after = self._before.get(path), now.get(path, _Extent())
            if before is not None:
                total += part.matrices * after.numbers / max(before.numbers, 1)
                total += part.vectors * after.channels / max(before.channels, 1)
                total += part.operators + part.layer * (after.layers - before.layers) if after.layers else 0
            elif path in paths or path not in self._paths:
                total += part.matrices + part.vectors + part.operators
        return round(total)

    def _extents(self, module: nn.Module) -> dict[str, "_Extent"]:
        """By the path of the part that stores them."""
        found: dict[str, _Extent] = {}
        storing = {path for path, part in self._parts.items() if part.matrices or part.vectors}
        for name, layer in module.named_modules():
            own = [(value.numel(), value.shape[0]) for value in layer.parameters(recurse=False) if value.ndim > 1]
            vectors = [value.numel() for value in layer.parameters(recurse=False) if value.ndim == 1]
            home = next((path for path in (name, *_parents(name)) if path in storing), None)
            if home is not None and (own or vectors):
                extent = found.setdefault(home, _Extent())
                extent.numbers += sum(numbers for numbers, _ in own)
                extent.channels += sum(channels for _, channels in own) if own else sum(vectors)
                extent.layers += 1
        return found


@dataclass(slots=True)
class _Part:
    """Bytes of one module: of its weights, of what it stores for each channel, of its operators, of one more layer's."""

    matrices: int = 0
    vectors: int = 0
    operators: int = 0
    layer: int = 0


@dataclass(slots=True)
class _Extent:
    """The parameters behind a part: numbers in weights of two and more axes, output channels, and modules that hold them."""

    numbers: int = 0
    channels: int = 0
    layers: int = 0


def _parts(program: ExportedProgram, profile: TargetProfile, kept_float: frozenset[str]) -> dict[str, _Part]:
    """By the path of the module that computes it, or with it."""
    form, scheme = profile.formats[0], profile.schemes[0]
    stored, layers = stored_nodes(program), _Integers(profile, scheme, kept_float)
    found: dict[str, _Part] = defaultdict(_Part)
    for node in program.graph.nodes:
        if node in stored and node.users:
            reader = next(_readers(node), node)
            part = found[layer_of(reader)]
            matrix, vector = _stored_bytes(node, stored, layers, form)
            part.matrices += matrix
            part.vectors += vector
            part.operators += tensor_bytes(reader, form, halved=scheme.weight == "float16")
        elif node.op == "call_function":
            part, integer = found[layer_of(node)], layers.computes(node)
            taken = operator_bytes(node, form, integer=integer, mixed=scheme.integer)
            part.operators += taken
            if weight_of(node, stored) is not None:
                part.layer = max(part.layer, taken)
    return found


@dataclass(frozen=True, slots=True)
class _Integers:
    """Which operators the target computes in integers."""

    profile: TargetProfile
    scheme: QuantScheme
    kept_float: frozenset[str]

    def computes(self, node: Node) -> bool:
        if not self.scheme.integer or kind_of(node) not in self.profile.operators.integer:
            return False
        return not self._keeps(node)

    def stored_bits(self, node: Node, stored: set[Node], numbers: int) -> int | None:
        """Bits of each number of a weight that is stored in few of them beside float activations; None for all others."""
        if self.scheme.integer or not self.scheme.quantized or numbers < FEWEST_NUMBERS:
            return None
        recurrent = self.scheme.palette_bits is not None
        for user in _readers(node):
            stores = kind_of(user) in WEIGHTED or (recurrent and (user.target in RECURRENT or kind_of(user) == "embedding"))
            weighs = user.target in RECURRENT or weight_of(user, stored) is node
            if stores and weighs and value_of(node).ndim > 1 and not self._keeps(user):
                return self.scheme.palette_bits or 8
        return None

    @property
    def table_bytes(self) -> int:
        """Of the palettes, for each channel: float16 values, shared by so many channels; one for a whole weight is nothing."""
        bits, channels = self.scheme.palette_bits, self.scheme.palette_channels
        return 0 if bits is None or channels is None else 2 * 2**bits // channels

    def _keeps(self, node: Node) -> bool:
        path = layer_of(node)
        return bool(self.kept_float.intersection((path, *_parents(path))))


def _parents(path: str) -> Iterator[str]:
    """From the nearest to the model itself, ""."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _stored_bytes(node: Node, stored: set[Node], layers: _Integers, form: Format) -> tuple[int, int]:
    """Of a stored tensor: the bytes that its numbers take, and those that go with its channels."""
    value = value_of(node)
    if not isinstance(value, Tensor):
        return 0, 0
    numbers = int(value.numel())
    if not value.is_floating_point():
        return numbers * min(value.element_size(), 4), 0
    readers = [user for user in _readers(node) if layers.computes(user)]
    if any(weight_of(user, stored) is node for user in readers):
        channels = 0 if kind_of(readers[0]) == "embedding" else int(value.shape[0])
        with_biases = layers.scheme.bias == "int32" or form != "onnx"
        return numbers, FILES[form].channel * channels // (1 if with_biases else 3)
    if (bits := layers.stored_bits(node, stored, numbers)) is not None:
        tables = FILES[form].channel if layers.scheme.palette_bits is None else layers.table_bytes
        return numbers * bits // 8, int(value.shape[0]) * tables
    is_half = form == "coreml" or layers.scheme.weight == "float16"
    taken = numbers * (4 if readers and layers.scheme.bias == "int32" else 2 if is_half and form != "onnx" else 4)
    return (taken, 0) if value.ndim > 1 else (0, taken)


def _readers(node: Node) -> Iterator[Node]:
    """What computes with a stored value, seen through what only moves it."""
    for user in node.users:
        if kind_of(user) in ("reshape", "transpose", "slice") and user.args[0] is node:
            yield from _readers(user)
        else:
            yield user
