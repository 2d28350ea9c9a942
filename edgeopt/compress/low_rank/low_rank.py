"""Low-rank factorisation: a layer becomes two or three smaller ones, where that has fewer parameters and fewer MACs.

A linear layer of n inputs and m outputs has mn parameters, its factors of rank r have r(m + n): r pays below mn / (m + n). For
a square matrix that is half its size: half the rank saves nothing at all, a quarter saves half.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from edgeopt.compress.common import measures
from edgeopt.compress.common.computed_weights import computed_weight
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.common.proof import proved
from edgeopt.compress.low_rank.factorise import ConvMethod
from edgeopt.compress.low_rank.layer_use import Use, second_moments, uses
from edgeopt.compress.low_rank.rank_choice import Candidate, Option, by_budget, by_energy
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError, did_you_mean
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause

DAMPENING = 1e-3
"""Added to a second moment's diagonal, as a share of its mean: inputs that the data hardly shows keep a little weight."""
TURNS, TIMED_FOR_S = 3, 0.02


@data_class
class LowRank:
    """Settings of low-rank factorisation: SVD of linear layers and 1x1 convolutions, ``conv`` of larger kernels.

    ``rule`` and ``share`` say what stays. ``energy``: of every layer this share of its squared weights, at the fewest MACs.
    ``macs`` or ``parameters``: this share of the whole model's, with the least energy lost. ``whiten`` takes the energy of
    the outputs that the context's batches cause instead (SVD-LLM, arXiv:2403.07378), in linear layers and 1x1 convolutions:
    only there are the best factors known. Padding in the batches counts as data. Ranks are multiples of
    ``multiple``, since kernels compute so many channels at once. Layers below ``min_parameters`` stay: starting one more layer
    costs more than it saves. With ``min_speedup`` above 0 each layer's factors are timed in PyTorch on this machine, on the
    example inputs' shapes, and must be that many times as fast as the layer. ``exclude``: paths of layers that stay, * and ?
    allowed.
    """

    rule: Literal["energy", "macs", "parameters"] = "energy"
    share: float = 0.9
    conv: ConvMethod = "tucker2"
    whiten: bool = False
    multiple: int = 8
    min_parameters: int = 4096
    min_speedup: float = 0.0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, but it is what stays: above 0 and at most 1")
        if self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}, but ranks are multiples of 1 or more")
        if self.min_parameters < 0 or self.min_speedup < 0:
            raise ValueError("min_parameters and min_speedup are 0 or more")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy of ``module`` with an nn.Sequential of ordinary layers in the place of each layer that gains.

        Raises CompressionError where ``whiten`` has no data or ``exclude`` fits nothing, BudgetUnmet where the share of MACs or
        parameters is out of reach, ForwardError where the model does not run.
        """
        copy = copied(module)
        found = uses(copy, context)
        _refuse_unknown(self.exclude, found)
        reasons = self._reasons(copy, found)
        candidates = self._candidates(copy, found, reasons, context)
        chosen, slow = self._chosen(copy, found, candidates, context)
        reasons |= {each.path: slow.get(each.path) or self._no_gain(each) for each in candidates if each.path not in chosen}
        changes = {path: _left(path, use.layer, reasons[path]) for path, use in found.items() if path in reasons}
        for each in candidates:
            if each.path in chosen:
                made = each.made(chosen[each.path])
                changes[each.path] = _changed(each, chosen[each.path], made)
                copy = _replaced(copy, each.path, made)
        _leave_fused_encoders(copy)
        _check_runs(copy, context)
        ordered = tuple(changes[path] for path in found)
        record = Record(
            technique="low-rank", settings=to_data(self), layers=ordered, notes=self._notes(found, candidates, chosen, context)
        )
        return Compressed(module=copy, record=record)

    def _reasons(self, module: nn.Module, found: Mapping[str, Use]) -> dict[str, str]:
        """Why a layer stays whatever its rank, by path."""
        shared = Counter(id(value) for _, value in module.named_parameters(remove_duplicate=False))
        reasons = {}
        for path, use in found.items():
            excluded = any(fnmatchcase(path, pattern) for pattern in self.exclude)
            reason = "excluded" if excluded else _held(use, shared) or self._too_small(use)
            if reason:
                reasons[path] = reason
        return reasons

    def _too_small(self, use: Use) -> str:
        count = _weight(use.layer).numel()
        few = count < self.min_parameters
        return f"{count:,} parameters: below {self.min_parameters:,} one more layer costs more than it saves" if few else ""

    def _candidates(
        self, module: nn.Module, found: Mapping[str, Use], reasons: Mapping[str, str], context: Context
    ) -> list[Candidate]:
        free = {path: use for path, use in found.items() if path not in reasons}
        roots = self._roots(module, free, context)
        made = []
        for number, (path, use) in enumerate(free.items(), 1):
            context.tell(f"low-rank: {path} ({number} of {len(free)})")
            layer: Any = use.layer
            made.append(Candidate(path, layer, use.positions(), self.conv, self.multiple, roots.get(path)))
        return made

    def _roots(self, module: nn.Module, free: Mapping[str, Use], context: Context) -> dict[str, Tensor]:
        """Cholesky factors of the inputs' second moments, where errors are weighed by them."""
        if not self.whiten:
            return {}
        if context.batches is None:
            fix = "give batches (data without labels is enough), or whiten = false"
            raise CompressionError("whitened factorisation needs data", why="there are no batches", fix=fix)
        matrices = {path: use.layer for path, use in free.items() if _weight(use.layer)[0, 0].numel() == 1}
        moments = second_moments(module, context, matrices)
        roots = {}
        for path, moment in moments.items():
            moment.diagonal().add_(DAMPENING * float(moment.diagonal().mean()) or 1.0)
            roots[path] = torch.linalg.cholesky(moment)
        return roots

    def _chosen(
        self, module: nn.Module, found: Mapping[str, Use], candidates: Sequence[Candidate], context: Context
    ) -> tuple[dict[str, Option], dict[str, str]]:
        """The options taken, and the layers whose factors were timed and too slow; without those the choice is made again."""
        slow: dict[str, str] = {}
        while True:
            chosen = self._by_rule(module, [each for each in candidates if each.path not in slow], context)
            if not self.min_speedup:
                return chosen, slow
            measured = {each.path: _speedup(each, chosen[each.path], found) for each in candidates if each.path in chosen}
            late = {
                path: f"its factors ran {gain:.2f} times as fast as the layer here: less than {self.min_speedup:g}"
                for path, gain in measured.items()
                if gain < self.min_speedup
            }
            if not late:
                return chosen, slow
            slow |= late

    def _by_rule(self, module: nn.Module, candidates: Sequence[Candidate], context: Context) -> dict[str, Option]:
        if self.rule == "energy":
            return by_energy(candidates, self.share)
        macs = self.rule == "macs"
        whole = measures.macs(module, context.example_inputs) if macs else measures.parameters(module)
        return by_budget(candidates, self.rule, whole - math.floor(self.share * whole))

    def _no_gain(self, candidate: Candidate) -> str:
        """Why a layer stays that could have been factorised, with the arithmetic."""
        dense, outputs, inputs = candidate.dense, *candidate.layer.weight.shape[:2]
        if self.rule != "energy" and candidate.paying:
            return "the share is reached without it, or it would lose more than others for the same gain"
        needed = candidate.cheapest(self.share if self.rule == "energy" else 0)
        ranks = " and ".join(map(str, needed.ranks))
        reason = f"{1 - needed.error:.1%} of its energy takes rank {ranks}: {needed.parameters:,} parameters"
        reason += f" and {needed.macs:,} MACs, the layer has {dense.parameters:,} and {dense.macs:,}"
        if dense.parameters == outputs * inputs:
            reason += (
                f" (r({outputs} + {inputs}) < {outputs} x {inputs} pays below {dense.parameters / (outputs + inputs):.1f})"
            )
        return reason

    def _notes(
        self, found: Mapping[str, Use], candidates: Sequence[Candidate], chosen: Mapping[str, Option], context: Context
    ) -> tuple[str, ...]:
        if not chosen:
            return ("no layer is factorised: see each layer's reason",)
        taken = [(each.dense, chosen[each.path]) for each in candidates if each.path in chosen]
        before, after = ([sum(pair[i].cost(of) for pair in taken) for of in ("parameters", "macs")] for i in (0, 1))
        saved = f"{before[0]:,} -> {after[0]:,} parameters, {before[1]:,} -> {after[1]:,} MACs"
        notes = [f"{len(taken)} of {len(found)} layers factorised; in them {saved}"]
        if self.min_speedup:
            notes.append("layers were timed in PyTorch on this machine, which is not the target")
        sparse = context.profile.sparsity if context.profile else None
        if sparse and any(min(option.ranks) < sparse.min_input_channels for option in chosen.values()):
            notes.append(f"ranks below {sparse.min_input_channels}: 2:4 sparsity will gain nothing in those factors")
        return tuple(notes)


def _refuse_unknown(patterns: Sequence[str], paths: Mapping[str, Any]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            fix = did_you_mean(pattern, paths) or f"the layers are {', '.join(paths)}"[:300]
            raise CompressionError(f"exclude names {pattern!r}, which is no layer", fix=fix)


def _weight(layer: nn.Module) -> Tensor:
    weight: Any = layer.weight
    return weight  # type: ignore[no-any-return]


def _held(use: Use, shared: Mapping[int, int]) -> str:
    """Why this layer cannot be factorised at all; "" where it can."""
    layer = use.layer
    if use.read:
        return "something besides its own forward reads its weights"
    if computed := computed_weight(layer):
        return computed
    if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return f"a {type(layer).__name__}: only Linear, Conv1d and Conv2d themselves are factorised"
    if any(shared[id(value)] > 1 for value in layer.parameters()):
        return "it shares its weights"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks, which its factors would lose"
    groups: Any = getattr(layer, "groups", 1)
    if groups > 1:
        return f"a {'depthwise' if groups == layer.in_channels else 'grouped'} convolution"
    return "" if use.calls else "the example inputs do not reach it"


def _speedup(candidate: Candidate, option: Option, found: Mapping[str, Use]) -> float:
    """How many times as fast the factors are as the layer, in PyTorch, on the example's shape.

    Both take turns, and of each the best median counts: whatever else the machine does only adds time.
    """
    scope = {"layer": candidate.layer, "factors": candidate.made(option), "example": found[candidate.path].example}
    timers = [Timer(f"{name}(example)", globals=scope, num_threads=torch.get_num_threads()) for name in ("layer", "factors")]
    with torch.no_grad():
        turns = [[timer.blocked_autorange(min_run_time=TIMED_FOR_S).median for timer in timers] for _ in range(TURNS)]
    return min(turn[0] for turn in turns) / min(turn[1] for turn in turns)


def _replaced(module: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """``module`` with ``new`` at ``path``; ``new`` itself where the path is the module's own."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    return module


def _leave_fused_encoders(module: nn.Module) -> None:
    """Keeps nn.TransformerEncoder from its fused operator, which reads the weights of linear1 and linear2 directly."""
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoderLayer) and any(
            isinstance(layer, nn.Sequential) for layer in (encoder.linear1, encoder.linear2)
        ):
            encoder.activation_relu_or_gelu = 0
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoder):
            encoder.use_nested_tensor &= bool(encoder.layers[0].activation_relu_or_gelu)


def _check_runs(module: nn.Module, context: Context) -> None:
    """Code may ask a layer for what its factors do not have, such as ``in_features``."""
    args, kwargs = call_arguments(context.example_inputs)
    try:
        with evaluating(module):
            module(*args, **kwargs)
    except Exception as error:
        fix = "exclude the layer that it asks for"
        raise CompressionError("the model does not run with factors in place of layers", why=cause(error), fix=fix) from error


def _describe(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features} -> {layer.out_features}"
    kernel = "x".join(map(str, layer.kernel_size))  # type: ignore[arg-type]
    return f"{kernel} {layer.in_channels} -> {layer.out_channels}"


def _left(path: str, layer: nn.Module, reason: str) -> LayerChange:
    return LayerChange(layer=path, action="left", before=_describe(layer), reason=reason)


def _changed(candidate: Candidate, option: Option, made: nn.Sequential) -> LayerChange:
    dense = candidate.dense
    reason = f"{option.parameters / dense.parameters:.0%} of its parameters, {option.macs / dense.macs:.0%} of its MACs"
    return LayerChange(
        layer=candidate.path, action="changed", before=_describe(candidate.layer), after=", ".join(map(_describe, made)),
        reason=f"{reason}, {1 - option.error:.1%} of its energy",
    )  # fmt: skip
