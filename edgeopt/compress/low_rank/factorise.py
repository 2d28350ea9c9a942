"""A layer's weight as factors of low rank: which ranks there are, what each costs and loses, and the layers that compute them.

Weights are [outputs, inputs, *kernel], float64. With the input's second moment E[x x^T] = S S^T a matrix is whitened first
(times S): what the decomposition then loses is the squared error of the layer's output instead of that of its weights (SVD-LLM,
Wang et al., 2024, arXiv:2403.07378).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from edgeopt.compress.low_rank.cp import cp

ConvMethod = Literal["tucker2", "spatial", "cp"]
Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True, slots=True)
class RankOptions:
    """Ways to factorise one layer, a row each. ``ranks`` [n, k]; ``parameters`` and ``macs`` of the factors together, [n];
    ``error``: the share of the (whitened) weight's energy that is lost, [n]."""

    ranks: Tensor
    parameters: Tensor
    macs: Tensor
    error: Tensor


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the layers in a layer's place: its weight, and the spatial ``axes`` whose stride and padding it takes over."""

    weight: Tensor
    axes: tuple[int, ...] = ()
    depthwise: bool = False


class Method(Protocol):
    """One decomposition of weights [outputs, inputs, *kernel]. ``positions[i]``: how many positions a factor is computed at
    once the first ``i`` spatial axes have been convolved: the first is the input's, the last the output's."""

    def options(self, weight: Tensor, positions: Sequence[int], multiple: int) -> RankOptions:
        """Every choice of ranks in steps of ``multiple``, also those that do not pay."""
        ...

    def factors(self, weight: Tensor, ranks: Sequence[int]) -> list[Factor]:
        """What replaces it, first to last; the first has the inputs along axis 1."""
        ...


class Matrix:
    """Truncated SVD of a matrix, or of a 1x1 convolution: optimal by the theorem of Eckart & Young, 1936."""

    def options(self, weight: Tensor, positions: Sequence[int], multiple: int) -> RankOptions:
        energy = torch.linalg.svdvals(weight.flatten(1)).square()
        ranks = _steps(len(energy), multiple)
        parameters = ranks * sum(weight.shape[:2])
        return RankOptions(ranks[:, None], parameters, parameters * positions[-1], _lost(energy)[ranks - 1])

    def factors(self, weight: Tensor, ranks: Sequence[int]) -> list[Factor]:
        outputs, inputs, *kernel = weight.shape
        left, right = _halves(weight.flatten(1), ranks[0])
        axes = tuple(range(len(kernel)))
        return [Factor(right.reshape(-1, inputs, *kernel), axes), Factor(left.reshape(outputs, -1, *kernel))]


class Spatial:
    """A k x k kernel as k x 1 and 1 x k with ``rank`` channels between: Jaderberg et al., 2014 (arXiv:1405.3866), scheme 2.

    The best pair is again a truncated SVD, of the weight unfolded to [inputs x k, outputs x k].
    """

    def options(self, weight: Tensor, positions: Sequence[int], multiple: int) -> RankOptions:
        outputs, inputs, height, width = weight.shape
        energy = torch.linalg.svdvals(self._unfolded(weight)).square()
        ranks = _steps(len(energy), multiple)
        parts = [(ranks * inputs * height, positions[1]), (ranks * outputs * width, positions[2])]
        return RankOptions(ranks[:, None], *_totals(parts), _lost(energy)[ranks - 1])

    def factors(self, weight: Tensor, ranks: Sequence[int]) -> list[Factor]:
        outputs, inputs, height, width = weight.shape
        left, right = _halves(self._unfolded(weight), ranks[0])
        vertical = left.T.reshape(-1, inputs, height, 1)
        horizontal = right.reshape(-1, outputs, 1, width).transpose(0, 1)
        return [Factor(vertical, (0,)), Factor(horizontal, (1,))]

    @staticmethod
    def _unfolded(weight: Tensor) -> Tensor:
        return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


class Tucker2:
    """1x1, k x k, 1x1 with ranks (inputs, outputs) between: Kim et al., 2016 (arXiv:1511.06530).

    Errors of all ranks are those of the truncated HOSVD, read from its core; the factors are refined by HOOI (De Lathauwer et
    al., 2000), which only lowers them. A rank equal to the channels needs no 1x1 on that side.
    """

    HOOI_SWEEPS = 5

    def options(self, weight: Tensor, positions: Sequence[int], multiple: int) -> RankOptions:
        outputs, inputs, *kernel = weight.shape
        core = _project(weight, _leading(weight, 0, outputs), _leading(weight, 1, inputs))
        kept = core.square().flatten(2).sum(2).cumsum(0).cumsum(1)
        ranks = torch.cartesian_prod(_steps(inputs, multiple), _steps(outputs, multiple))
        narrow, wide = ranks.T
        parts = [
            (narrow * inputs * (narrow < inputs), positions[0]),
            (narrow * wide * math.prod(kernel), positions[-1]),
            (wide * outputs * (wide < outputs), positions[-1]),
        ]
        error = (1 - kept[wide - 1, narrow - 1] / kept[-1, -1].clamp_min(torch.finfo(kept.dtype).tiny)).clamp_min(0)
        return RankOptions(ranks, *_totals(parts), error)

    def factors(self, weight: Tensor, ranks: Sequence[int]) -> list[Factor]:
        narrow, wide = ranks
        first, last = _leading(weight, 1, narrow), _leading(weight, 0, wide)
        for _ in range(self.HOOI_SWEEPS):
            last = _leading(torch.einsum("oi...,ir->or...", weight, first), 0, wide)
            first = _leading(torch.einsum("oi...,or->ri...", weight, last), 1, narrow)
        outputs, inputs, *kernel = weight.shape
        core = _project(weight, last, first)
        core = torch.einsum("or...,ir->oi...", core, first) if narrow == inputs else core
        core = torch.einsum("ri...,or->oi...", core, last) if wide == outputs else core
        before = [] if narrow == inputs else [_pointwise(first.T, len(kernel))]
        after = [] if wide == outputs else [_pointwise(last, len(kernel))]
        return [*before, Factor(core, tuple(range(len(kernel)))), *after]


class CP:
    """1x1, one depthwise convolution per axis, 1x1, all with ``rank`` channels: Lebedev et al., 2015 (arXiv:1412.6553)."""

    STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    """Ranks that are tried, in multiples: every one takes a decomposition of its own."""
    TRIAL_SWEEPS = 10

    def options(self, weight: Tensor, positions: Sequence[int], multiple: int) -> RankOptions:
        outputs, inputs, *kernel = weight.shape
        most = max(weight.numel() // sum(weight.shape), multiple)
        ranks = torch.tensor([step * multiple for step in self.STEPS if step * multiple <= most])
        parts = [(ranks * inputs, positions[0]), (ranks * outputs, positions[-1])]
        parts += [(ranks * size, positions[axis + 1]) for axis, size in enumerate(kernel)]
        error = torch.tensor([cp(weight, int(rank), self.TRIAL_SWEEPS)[1] for rank in ranks], dtype=weight.dtype)
        return RankOptions(ranks[:, None], *_totals(parts), error)

    def factors(self, weight: Tensor, ranks: Sequence[int]) -> list[Factor]:
        (last, first, *kernel), _ = cp(weight, ranks[0])
        middle = []
        for axis, factor in enumerate(kernel):
            shape = [len(factor) if axis == other else 1 for other in range(len(kernel))]
            middle.append(Factor(factor.T.reshape(-1, 1, *shape), (axis,), depthwise=True))
        return [_pointwise(first.T, len(kernel)), *middle, _pointwise(last, len(kernel))]


METHODS: dict[str, Method] = {"tucker2": Tucker2(), "spatial": Spatial(), "cp": CP()}


def method_of(weight: Tensor, conv: ConvMethod) -> Method:
    """SVD for everything that is a matrix; ``conv`` for a kernel, Tucker-2 where ``conv`` has too few axes to separate."""
    kernel = weight.shape[2:]
    if math.prod(kernel) == 1:
        return Matrix()
    separable = all(size > 1 for size in kernel) and (conv == "cp" or len(kernel) == 2)
    return METHODS[conv if separable else "tucker2"]


def whitened(weight: Tensor, root: Tensor | None) -> Tensor:
    """``weight``, of a matrix or a 1x1 convolution, times ``root`` (S, lower triangular)."""
    return weight if root is None else (weight.flatten(1) @ root).reshape(weight.shape)


def layers(layer: Layer, factors: Sequence[Factor], root: Tensor | None = None) -> nn.Sequential:
    """What replaces ``layer``: plain layers with its own bias in the last. dtype, device, mode and requires_grad stay.

    ``root`` undoes :func:`whitened` in the first.
    """
    weights = [factor.weight for factor in factors]
    if root is not None:
        solved = torch.linalg.solve_triangular(root, weights[0].flatten(1), upper=False, left=False)
        weights[0] = solved.reshape(weights[0].shape)
    made = [_convolution(layer, factor) if not isinstance(layer, nn.Linear) else _linear(factor) for factor in factors]
    for new, weight in zip(made, weights, strict=True):
        new.weight = nn.Parameter(weight.to(layer.weight).contiguous(), requires_grad=layer.weight.requires_grad)
    made[-1].bias = layer.bias
    return nn.Sequential(*made).train(layer.training)


def _linear(factor: Factor) -> Layer:
    return nn.Linear(factor.weight.shape[1], len(factor.weight), bias=False, device="meta")


def _convolution(layer: nn.Conv1d | nn.Conv2d, factor: Factor) -> Layer:
    outputs, inputs, *kernel = factor.weight.shape
    given = layer.padding
    padding = given if isinstance(given, str) else tuple(n if axis in factor.axes else 0 for axis, n in enumerate(given))
    padded = isinstance(padding, str) or any(padding)
    kind: type[nn.Conv1d | nn.Conv2d] = type(layer)
    return kind(
        outputs if factor.depthwise else inputs,
        outputs,
        tuple(kernel),  # type: ignore[arg-type]
        stride=tuple(n if axis in factor.axes else 1 for axis, n in enumerate(layer.stride)),  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        dilation=tuple(n if axis in factor.axes else 1 for axis, n in enumerate(layer.dilation)),  # type: ignore[arg-type]
        groups=outputs if factor.depthwise else 1,
        bias=False,
        padding_mode=layer.padding_mode if padded else "zeros",
        device="meta",
    )


def _pointwise(matrix: Tensor, axes: int) -> Factor:
    return Factor(matrix.reshape(*matrix.shape, *[1] * axes))


def _steps(most: int, multiple: int) -> Tensor:
    """``multiple``, twice it and so on, and ``most`` itself."""
    return torch.tensor(sorted({*range(multiple, most, multiple), most}))


def _lost(energy: Tensor) -> Tensor:
    """Share of ``energy`` (descending) behind each rank."""
    behind = energy.flip(0).cumsum(0).flip(0) - energy
    share: Tensor = behind / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return share


def _halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[m, rank] and [rank, n], the singular values shared evenly: both keep a range that 8 bits can hold."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _leading(weight: Tensor, axis: int, rank: int) -> Tensor:
    """Leading left singular vectors, [size, rank], of the unfolding along ``axis``."""
    unfolded = weight.movedim(axis, 0).flatten(1)
    _, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    leading: Tensor = vectors.flip(1)[:, :rank]
    return leading


def _project(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    return torch.einsum("oi...,or,is->rs...", weight, outputs, inputs)


def _totals(parts: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Parameters and multiply-accumulates of factors with so many parameters, used at so many positions."""
    return sum((count for count, _ in parts), torch.tensor(0)), sum((count * at for count, at in parts), torch.tensor(0))
