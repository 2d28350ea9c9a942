"""Structured channel pruning: whole channels of convolutions and of transformers' MLPs leave, and the layers become narrower.

    compressed = Channels(amount=0.5, measure="macs").apply(net, Context(example_inputs=image, profile=load("arm-xnnpack")))

What is left is an ordinary, smaller module: every runtime gains, as far as the channel counts are multiples of what its
kernels compute at once. The Fashion-MNIST example with half of its MACs, in float in ONNX Runtime 1.31 on one thread with
AVX512: 1.75 times as fast with multiples of 16, 1.36 times with multiples of 8, and with multiples of 1 slower than the whole
net (0.77 times).
"""

from dataclasses import asdict, replace
from typing import Literal

from torch import nn

from edgeopt.compress.channels import surgery
from edgeopt.compress.channels.config import tell_widths
from edgeopt.compress.channels.groups import Block, Groups
from edgeopt.compress.channels.importance import Importance, Scores, scores
from edgeopt.compress.channels.layers import has_matrices
from edgeopt.compress.channels.plan import ChannelCosts, Planner, Scope
from edgeopt.compress.channels.surgery import Removed, cut
from edgeopt.compress.common import measures
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.head_layouts import sizes
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class
from edgeopt.errors import CompressionError, did_you_mean

DEFAULT_MULTIPLE = 8
"""Without a target: the narrowest register of eight floats that its kernels may have."""


@data_class
class Channels:
    """``amount``: the share to take away of ``measure``: of channels, or at least that much of the MACs or parameters.

    ``importance``: which channels matter, see :func:`edgeopt.compress.channels.importance.scores`; ``taylor`` and
    ``activation`` need data. ``scope``: every layer loses the same share, or channels of all layers are compared.
    ``multiple``: channel counts that stay are multiples of it; None: of what the target's kernels like. ``rounds``: in how
    many parts the amount is taken, with importance found anew and ``epochs_between`` epochs of fine-tuning between two parts
    (where there is training code). ``exclude``: paths of layers, or of modules with all their layers, whose outputs stay.
    """

    amount: float = 0.5
    measure: Literal["channels", "macs", "parameters"] = "channels"
    importance: Importance = "l2"
    scope: Scope = "layer"
    multiple: int | None = None
    rounds: int = 1
    epochs_between: int = 1
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is {self.amount:g}: a share from 0 up to, but not including, 1")
        if self.multiple is not None and self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}: 1 or more")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}: 1 or more")
        if self.epochs_between < 0:
            raise ValueError(f"epochs_between is {self.epochs_between}: 0 or more")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A narrower copy of ``module``.

        Raises CompressionError where tracing cannot follow it, a layer would be left without channels, the share cannot be
        reached, or data is missing; TrainingFailed where fine-tuning between rounds fails.
        """
        settings = replace(self, multiple=self.multiple or _multiple(context))
        run = _Run(settings, module, context)
        for number in range(1, self.rounds + 1):
            went = run.prune(self.amount * number / self.rounds)
            if went and number < self.rounds and self.epochs_between and context.fit is not None:
                context.tell(f"channels: fine-tuning after part {number} of {self.rounds}")
                fine_tune(context.fit, run.module, self.epochs_between)
        return run.compressed()


class _Run:
    """One application: the module as it is after each round, and what the original was."""

    def __init__(self, settings: Channels, module: nn.Module, context: Context) -> None:
        self._settings, self._context, self._original = settings, context, module
        self.module = copied(module)
        self._excluded = _paths(module, settings.exclude)
        self._macs = measures.macs_by_layer(module, context.example_inputs)
        self._before: dict[object, int] = {}
        self._blocks: list[Block] = []
        self._readable = True

    def prune(self, share: float) -> bool:
        """Takes channels away until ``share`` of the original is gone; whether any went."""
        example = self._context.example_inputs
        found = surgery.tried(self.module, Groups(self.module, example, self._excluded), example)
        importance = scores(self.module, found, self._settings.importance, self._context)
        if self._settings.importance == "batch-norm":
            found = [
                replace(one, reason=one.reason or ("no batch norm to judge it by" if bool(score.isnan().any()) else ""))
                for one, score in zip(found, importance, strict=True)
            ]
        for one in found:
            self._before.setdefault(one.key, one.channels)
        self._blocks = self._blocks or found
        assert self._settings.multiple is not None
        removed, found = self._proven(found, importance, share)
        self.module = cut(self.module, found, removed)
        return any(removed.values())

    def _proven(self, found: list[Block], importance: Scores, share: float) -> tuple[Removed, list[Block]]:
        """A plan after which the module computes what it should. What only the plan's own choice of channels shows to be
        misread stays, with the reason, and the rest is planned anew."""
        assert self._settings.multiple is not None
        example = self._context.example_inputs
        while True:
            planner = Planner(found, importance, self._settings.multiple, self._settings.scope, self._before)
            removed = self._plan(planner, found, share) if share else {}
            if not (wrong := surgery.difference(self.module, found, removed, example)):
                return removed, found
            checked = surgery.without_misfits(self.module, found, (removed,), example)
            if [one.reason for one in checked] == [one.reason for one in found]:
                fix = "exclude the layers that its own code splits, reorders or names sizes of"
                raise CompressionError("channels cannot be taken out of this model", why=wrong, fix=fix)
            found = self._blocks = checked

    def _plan(self, planner: Planner, found: list[Block], share: float) -> Removed:
        if self._settings.measure == "channels":
            return planner.at(share)
        by_macs = self._settings.measure == "macs"
        now = measures.macs_by_layer(self.module, self._context.example_inputs) if by_macs else None
        costs = ChannelCosts(self.module, found, now)
        whole = sum(self._macs.values()) if by_macs else measures.parameters(self._original)
        return planner.reaching(share, lambda removed: costs.left(removed) / max(whole, 1))

    def compressed(self) -> Compressed:
        widths = {
            name: (_made(layer), _made(self.module.get_submodule(name))) for name, layer in _layers(self._original).items()
        }
        narrower = {name: pair for name, pair in widths.items() if pair[0] != pair[1]}
        self._readable = tell_widths(self.module, narrower) if narrower else True
        return Compressed(module=self.module, record=self._record())

    def _record(self) -> Record:
        after = {name: _described(layer) for name, layer in _layers(self.module).items()}
        layers = tuple(self._change(name, layer, after[name]) for name, layer in _layers(self._original).items())
        settings = asdict(self._settings)
        return Record(technique="channels", settings=settings, layers=layers, notes=tuple(self._notes(layers)))

    def _change(self, name: str, layer: nn.Module, after: str) -> LayerChange:
        before = _described(layer)
        made = [one for one in self._blocks if name in one.layers("makes") or (name in one.layers("passes"))]
        if before == after:
            return LayerChange(layer=name, action="left", before=before, reason=self._left_reason(layer, made))
        if _made(layer) == _made(self.module.get_submodule(name)):
            reason = f"fewer inputs; as to its outputs: {self._left_reason(layer, made)}"
        else:
            others = sorted({other for one in made for other in one.layers("makes")} - {name})
            reason = f"least important by {self._settings.importance}" + (
                f"; together with {', '.join(others)}" if others else ""
            )
        return LayerChange(layer=name, action="changed", before=before, after=after, reason=reason)

    def _left_reason(self, layer: nn.Module, made: list[Block]) -> str:
        if isinstance(layer, nn.MultiheadAttention):
            return "attention loses whole heads or nothing: see the technique heads"
        if not made:
            return "forward does not call it, or tracing does not see it"
        if reasons := [one.reason for one in made if one.reason]:
            return reasons[0]
        multiple = self._settings.multiple
        channels = "/".join(str(one.channels) for one in made)
        return f"{channels} channels: with multiples of {multiple} the nearest to what was asked for is all of them"

    def _notes(self, layers: tuple[LayerChange, ...]) -> list[str]:
        notes = []
        if not any(layer.action == "changed" for layer in layers):
            notes.append("no channel was taken away: the module is as it was")
        else:
            macs = sum(measures.macs_by_layer(self.module, self._context.example_inputs).values())
            notes.append(_less("MACs", sum(self._macs.values()), macs))
            notes.append(_less("parameters", measures.parameters(self._original), measures.parameters(self.module)))
        profile, multiple = self._context.profile, self._settings.multiple or 1
        if profile is not None and multiple % profile.channel_multiple:
            likes = f"{profile.name} computes {profile.channel_multiple} channels at once"
            notes.append(f"{likes}: with multiples of {multiple} the model becomes smaller, but faster less or not at all")
        if self._settings.rounds > 1 and self._settings.epochs_between and self._context.fit is None:
            notes.append(f"no training code was given: nothing was fine-tuned between the {self._settings.rounds} rounds")
        if not self._readable:
            notes.append("the model's configuration cannot say these widths: from_pretrained does not read it back, recipes do")
        return notes


def _made(layer: nn.Module) -> int:
    """Channels or features that a layer makes; of layers that stay whole, 0."""
    names = ("out_channels", "out_features", "hidden_size", "nf")
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), 0)


def _less(what: str, before: int, after: int) -> str:
    return f"{what}: {before:,} -> {after:,} ({1 - after / max(before, 1):.1%} less)"


def _multiple(context: Context) -> int:
    return DEFAULT_MULTIPLE if context.profile is None else context.profile.channel_multiple


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers by path that channel pruning considers; what attention consists of is considered with it."""
    attention = tuple(f"{name}." for name, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention))
    layers = ((name, layer) for name, layer in module.named_modules() if not name.startswith(attention))
    return {name: layer for name, layer in layers if isinstance(layer, nn.MultiheadAttention) or has_matrices(layer)}


def _described(layer: nn.Module) -> str:
    if isinstance(layer, nn.modules.conv._ConvNd):
        return f"{layer.in_channels} -> {layer.out_channels} channels"
    if isinstance(layer, nn.MultiheadAttention):
        return f"{layer.embed_dim} features"
    if isinstance(layer, nn.RNNBase):
        return f"{layer.input_size} -> {layer.hidden_size} features"
    return "{} -> {} features".format(*sizes(layer))


def _paths(module: nn.Module, exclude: tuple[str, ...]) -> frozenset[str]:
    """Paths of the layers that ``exclude`` names, itself or by a module that holds them."""
    known = dict(module.named_modules())
    if unknown := [name for name in exclude if name not in known]:
        fix = did_you_mean(unknown[0], known) or "use paths as in the report of compression"
        raise CompressionError(f"exclude names {unknown[0]!r}, which the model does not have", fix=fix)
    return frozenset(path for path in known for name in exclude if f"{path}.".startswith(f"{name}." if name else ""))
