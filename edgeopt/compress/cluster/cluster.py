"""Weight clustering: every weight becomes one of few values (Han et al., 2016, arXiv:1510.00149).

The values and an index of 1 to 8 bits per weight are what Core ML calls a palette (``constexpr_lut_to_dense``): coremltools'
``palettize_weights`` in the mode "unique" finds these same values, and loses nothing more. Other runtimes store whole weights,
and gain only where the file is packed.
"""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from edgeopt.compress.common.batch_norm import fold, foldable
from edgeopt.compress.common.computed_weights import computed_weight
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.proof import proved
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError, did_you_mean
from edgeopt.quantize.palette import Packed, centroids, centroids_and_zero, nearest, packed

CORE_ML_BITS = (1, 2, 3, 4, 6, 8)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@data_class
class Cluster:
    """Settings of weight clustering: k-means of the numbers in every weight of two or more axes; biases and norms stay.

    ``centroids``: values per palette. ``group_size``: output channels that share a palette, None is the whole weight; a weight
    that it does not divide has one palette. ``keep_zeros``: zeros stay exactly zero, also in fine-tuning (one value is then 0).
    ``min_parameters``: smaller weights stay. ``exclude``: paths of layers that stay, * and ? allowed.
    """

    centroids: int = 16
    group_size: int | None = None
    keep_zeros: bool = True
    min_parameters: int = 2048
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.centroids <= 256:
            raise ValueError(f"centroids is {self.centroids}, but a palette has 2 to 256 values")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}, but a group has 1 or more channels")
        if self.min_parameters < 0:
            raise ValueError("min_parameters is 0 or more")

    @property
    def bits(self) -> int:
        """Bits of an index into a palette."""
        return max(math.ceil(math.log2(self.centroids)), 1)

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy of ``module`` with few distinct values in each weight, and batch norms folded into what is clustered.

        ``keep`` lets fine-tuning move the values: after an optimizer step each weight becomes the mean of its cluster. Raises
        CompressionError where ``exclude`` fits nothing, ForwardError where the model does not run.
        """
        copy = copied(module)
        weights = _weights(copy)
        _refuse_unknown(self.exclude, list(weights))
        reasons = {layer: self._reason(copy, layer, name) for layer, name in weights.items()}
        stays = {id(copy.get_parameter(name)) for layer, name in weights.items() if reasons[layer]}
        for layer, name in weights.items():
            if not reasons[layer] and id(copy.get_parameter(name)) in stays:
                reasons[layer] = "it shares weights that stay"
        pairs = foldable(copy, context.example_inputs)
        folded = {conv: norm for conv, norm in pairs.items() if reasons.get(conv) == ""}
        fold(copy, folded)
        changes, sizes, first = [], [], dict[int, str]()
        for layer, name in weights.items():
            value = copy.get_parameter(name)
            if reasons[layer]:
                changes.append(LayerChange(layer=layer, action="left", before=_count(value), reason=reasons[layer]))
            elif id(value) in first:
                changes.append(
                    LayerChange(layer=layer, action="changed", reason=f"it shares the weights of {first[id(value)]}")
                )
            else:
                context.tell(f"cluster: {layer}")
                change, size = self._clustered(copy, layer, name)
                changes.append(change)
                sizes.append(size)
                first[id(value)] = layer
        clustered = tuple(weights[layer] for layer in first.values())
        notes = self._notes(sizes, len(folded), context)
        record = Record(technique="cluster", settings=to_data(self), layers=tuple(changes), notes=notes)
        keep = partial(_keep, names=clustered, group_size=self.group_size, keep_zeros=self.keep_zeros)
        return Compressed(module=copy, record=record, keep=keep if clustered else None)

    def _reason(self, module: nn.Module, layer: str, name: str) -> str:
        """Why a weight stays; "" where it is clustered."""
        weight = module.get_parameter(name)
        count, item = weight.numel(), weight.element_size()
        if any(fnmatchcase(layer, pattern) for pattern in self.exclude):
            return "excluded"
        if computed := computed_weight(module.get_submodule(name.rpartition(".")[0])):
            return computed
        if count < self.min_parameters:
            return f"{count:,} parameters: below {self.min_parameters:,}"
        tables = len(_parts(weight, _axis(module, name), self.group_size))
        if math.ceil(count * self.bits / 8) + tables * self.centroids * item >= count * item:
            return f"{tables:,} palettes of {self.centroids} values would take more room than its weights"
        return ""

    def _clustered(self, module: nn.Module, layer: str, name: str) -> tuple[LayerChange, Packed]:
        """Clusters the parameter ``name`` in place."""
        weight, axis = module.get_parameter(name).detach(), _axis(module, name)
        parts = _parts(weight, axis, self.group_size)
        error, energy = 0.0, float(weight.double().square().sum()) or 1.0
        for part in parts:
            palette = (centroids_and_zero if self.keep_zeros else centroids)(part, self.centroids)
            near = palette[nearest(part, palette)].to(part.dtype)
            error += float((near.double() - part.double()).square().sum())
            part.copy_(near)
        found = [_unique(part) for part in parts]
        size = packed(torch.cat([index.flatten() for _, index in found]), self.centroids, len(parts), weight.element_size())
        values = f"{max(len(values) for values, _ in found)} values" + (
            f" in each of {len(parts)} groups" if len(parts) > 1 else ""
        )
        change = LayerChange(
            layer=layer, action="changed", before=_count(weight),
            after=f"{values}: {_kb(size.palette)} as a palette, {_kb(size.huffman)} in Huffman codes",
            reason=f"{1 - error / energy:.2%} of its energy; its entropy is {_kb(size.entropy)}",
        )  # fmt: skip
        return change, size

    def _notes(self, sizes: Sequence[Packed], folded: int, context: Context) -> tuple[str, ...]:
        if not sizes:
            return ("no weight is clustered: see each layer's reason",)
        total = sum(sizes, Packed(0, 0, 0, 0))
        notes = [
            f"{len(sizes)} weights clustered, {_kb(total.dense)}: {_kb(total.palette)} as palettes of {self.bits} bits, "
            f"{_kb(total.huffman)} in Huffman codes (entropy without tables: {_kb(total.entropy)})"
        ]
        if folded:
            notes.append(
                f"{folded} batch norms folded into their convolutions: an export would scale each channel's values by them"
            )
        profile = context.profile
        if profile and "coreml" in profile.formats and not profile.schemes[0].integer:
            notes.append(
                "stored as these palettes for apple-ane-palettized (up to 16 values), and by coremltools' palettize_weights in "
                "the mode unique; other targets store whole weights"
            )
            if self.bits not in CORE_ML_BITS:
                bits = next(bits for bits in CORE_ML_BITS if bits > self.bits)
                notes.append(f"Core ML has no palettes of {self.bits} bits: it takes {bits}")
        elif profile:
            notes.append(f"{profile.name} stores whole weights: no speed, and a smaller file only where it is packed")
        return tuple(notes)


def _weights(module: nn.Module) -> dict[str, str]:
    """Names of floating-point parameters of two or more axes by layer: its path, the whole name where it is not ``weight``."""
    found = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        path, _, own = name.rpartition(".")
        if value.ndim > 1 and value.is_floating_point() and not isinstance(module.get_submodule(path), nn.LayerNorm):
            found[path if own == "weight" else name] = name
    return found


def _refuse_unknown(patterns: Sequence[str], layers: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            fix = did_you_mean(pattern, layers) or f"the layers are {', '.join(layers)}"[:300]
            raise CompressionError(f"exclude names {pattern!r}, which is no layer", fix=fix)


def _axis(module: nn.Module, name: str) -> int:
    """The axis of the output channels."""
    return 1 if isinstance(module.get_submodule(name.rpartition(".")[0]), _TRANSPOSED) else 0


def _parts(weight: Tensor, axis: int, group_size: int | None) -> Sequence[Tensor]:
    """Views of the channels that share a palette."""
    if group_size is None or weight.shape[axis] % group_size:
        return (weight,)
    return torch.split(weight, group_size, axis)


def _unique(part: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values in order, and for each weight the index of its own."""
    values, index = torch.unique(part, return_inverse=True)
    return values, index


def _keep(module: nn.Module, names: Sequence[str], group_size: int | None, keep_zeros: bool) -> Callable[[], None]:
    """Looks at which weights are equal; what is returned makes them equal again, at their mean.

    So each value moves by the mean of what the optimizer did to its weights (arXiv:1510.00149, section 3.3, takes the sum of
    the gradients; the learning rate makes up for it).
    """
    restores = [_restorer(module.get_parameter(name), _axis(module, name), group_size, keep_zeros) for name in names]

    def restore() -> None:
        for each in restores:
            each()

    return restore


def _restorer(weight: nn.Parameter, axis: int, group_size: int | None, keep_zeros: bool) -> Callable[[], None]:
    index = torch.empty_like(weight, dtype=torch.int64)
    values: list[Tensor] = []
    for part, place in zip(_parts(weight.detach(), axis, group_size), _parts(index, axis, group_size), strict=True):
        found, inverse = _unique(part)
        place.copy_(inverse + sum(map(len, values)))
        values.append(found)
    pinned = torch.cat(values) == 0 if keep_zeros else torch.zeros(sum(map(len, values)), dtype=torch.bool)
    counts = torch.bincount(index.flatten()).double()

    def restore() -> None:
        sums = torch.zeros_like(counts).index_add_(0, index.flatten(), weight.detach().double().flatten())
        means = (sums / counts).masked_fill_(pinned, 0.0)
        weight.data.copy_(means[index])

    return restore


def _count(weight: Tensor) -> str:
    return f"{weight.numel():,} weights, {_kb(weight.numel() * weight.element_size())}"


def _kb(size: int) -> str:
    return f"{size / 1000:,.1f} kB"
