"""What torch's operators do to the labels of channels (:mod:`edgeopt.compress.channels.labels`).

Operators that move elements do the same to the labels. Where elements meet, so do their channels. What takes in several
channels at once keeps them all, with the reason; so does every operator that is not known here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeopt.compress.channels.labels import UNEVEN, Book, compact, core, distinct, split_axes, varying

ATTENTION = "they belong to attention, which loses whole heads or nothing: see the technique heads"
LAYER_NORM = "they pass a layer norm, whose statistics take in every channel: the width of the residual stream stays"
GROUP_NORM = "they pass a group norm, whose statistics take in other channels"
MULTIPLIED = "the model's own code multiplies them with weights that no layer holds"
Found = list[Tensor | None]
"""The labels of each output; None: there are none."""
Rule = Callable[["Call"], Found]


class Call:
    """One operator's call. ``labels``: of each tensor argument, in order; ``outputs`` are tensors."""

    def __init__(self, book: Book, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], of: Any, output: Any) -> None:
        self.book, self.function, self.args, self.kwargs, self.of = book, function, args, kwargs, of
        self.name: str = function.overloadpacket.__name__
        self.tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.outputs = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]

    def first(self) -> Tensor:
        """The first argument's labels, zeros where it has none."""
        return self.known(self.args[0])

    def known(self, value: Tensor) -> Tensor:
        """Labels of ``value``; zeros where it has none."""
        found: Tensor | None = self.of(value)
        return (
            torch.zeros((1,) * value.ndim, dtype=torch.int64, device=value.device).expand(value.shape)
            if found is None
            else found
        )

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def mixed(self, reason: str = "") -> Found:
        """Everything that goes in stays; what comes out keeps what it meets."""
        reason = reason or f"the model's own code mixes them ({self.name})"
        if self.outputs and all(one.ndim == 0 for one in self.outputs):
            return self._number(reason)
        for value in self.tensors:
            if (labels := self.of(value)) is not None:
                self.book.hold(labels, reason)
        mark = self.book.fixed(reason)
        return [torch.full((1,) * one.ndim, mark, device=one.device).expand(one.shape) for one in self.outputs]

    def _number(self, reason: str) -> Found:
        """One number from all: it keeps them where it is computed with, not where Python only looks at it."""
        known = [distinct(core(self.known(value)).flatten()) for value in self.tensors]
        mark = self.book.fixed(reason, torch.cat(known))
        return [torch.tensor(mark, device=one.device) for one in self.outputs]


def labelled(call: Call) -> Found:
    """The labels of the outputs of a call in which at least one argument has labels."""
    if (rule := RULES.get(call.name.rstrip("_"))) is not None:
        return rule(call)
    if torch.Tag.pointwise in call.function.tags:
        return _pointwise(call)
    reasons = [reason for part, reason in _MIXING.items() if part in call.name]
    return call.mixed(reasons[0] if reasons else "")


def _pointwise(call: Call) -> Found:
    shape = call.outputs[0].shape
    total: Tensor | None = None
    for value in call.tensors:
        labels = call.known(value)
        total = labels if total is None else call.book.meet(total, labels)
    assert total is not None
    return [total.expand(shape)] * len(call.outputs)


def _copied(call: Call) -> Found:
    """In place: what is written where there was nothing to follow stays."""
    target, source = call.known(call.args[0]), call.known(call.args[1])
    call.book.hold_against(source.expand(target.shape), target)
    call.book.unite(source.expand(target.shape), target)
    return [target]


def _same(call: Call) -> Found:
    return [call.first().expand(one.shape) if one.ndim == call.args[0].ndim else None for one in call.outputs]


def _moved(call: Call) -> Found:
    """The same operator on the labels."""
    swap = lambda leaf: call.known(leaf) if leaf is call.args[0] else leaf  # noqa: E731
    args, kwargs = pytree.tree_map(swap, (call.args, call.kwargs))
    found: Any = call.function(*args, **kwargs)
    return [found] if isinstance(found, Tensor) else list(found)


def _viewed(call: Call) -> Found:
    before, shape = call.first(), call.outputs[0].shape
    after = compact(before.reshape(shape))
    differing = varying(after)
    for axes in split_axes(before.shape, shape):
        if len(several := [axis for axis in axes if axis in differing]) > 1 and not call.book.of_parameter(before):
            small = after
            for axis in range(len(shape)):
                small = small if axis in several else small.narrow(axis, 0, 1)
            call.book.splits.append(small.squeeze().cpu())
    return [after]


def _tied(call: Call, parts: Sequence[Tensor], axis: int) -> None:
    """Parts along an axis lose channels at the same places, or their code would part them elsewhere."""
    if axis % parts[0].ndim not in varying(torch.cat(list(parts), axis)):
        return
    if len({part.shape for part in parts}) > 1:
        for part in parts:
            call.book.hold(part, UNEVEN)
        return
    for part in parts[1:]:
        call.book.unite(parts[0], part)


def _split(call: Call) -> Found:
    parts = _moved(call)
    _tied(call, [part for part in parts if part is not None], call.argument(2, "dim", 0))
    return parts


def _sliced(call: Call) -> Found:
    labels, (found,) = call.first(), _moved(call)
    assert found is not None
    axis = call.argument(1, "dim", 0) % labels.ndim
    size, part = labels.shape[axis], found.shape[axis]
    start = call.argument(2, "start", 0) or 0
    if part == size or axis not in varying(labels) or call.book.of_parameter(labels):
        return [found]
    if part and size % part == 0 and (start % size) % part == 0 and call.argument(4, "step", 1) == 1:
        _tied(call, torch.split(labels, part, axis), axis)
    else:
        call.book.hold(labels, UNEVEN)
    return [found]


def _gated(call: Call) -> Found:
    axis = call.argument(1, "dim", -1)
    parts = call.first().chunk(2, axis)
    _tied(call, parts, axis)
    return [parts[0]]


def _joined(call: Call) -> Found:
    axis = call.argument(1, "dim", 0)
    if call.name == "stack":
        return [torch.stack([call.known(one) for one in call.args[0]], axis)]
    parts = [call.known(one) for one in call.args[0] if one.shape != (0,)]  # which torch.cat passes over
    return [compact(torch.cat(parts, axis))]


def _padded(call: Call) -> Found:
    """Maps are padded as if with their own edge; along channels there is nothing to follow in what is added."""
    labels, pads = call.first(), call.args[1]
    differing = varying(labels)
    for place in range(len(pads) // 2):
        axis = labels.ndim - 1 - place
        if axis in differing:
            labels = torch.nn.functional.pad(labels, [0] * (2 * place) + list(pads[2 * place : 2 * place + 2]))
        else:
            labels = labels.narrow(axis, 0, 1).expand(
                *labels.shape[:axis], call.outputs[0].shape[axis], *labels.shape[axis + 1 :]
            )
    return [labels]


def _reduced(call: Call, place: int = 1) -> Found:
    """Sums and the like along axes where the channel does not change."""
    labels = call.first()
    given = call.argument(place, "dim")
    axes = range(labels.ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
    gone = {axis % max(labels.ndim, 1) for axis in axes}
    if gone & varying(labels):
        return call.mixed()
    for axis in gone:
        labels = labels.narrow(axis, 0, 1)
    if call.outputs[0].ndim != labels.ndim:
        labels = labels.squeeze(tuple(gone))
    return [labels] * len(call.outputs)


def _ordered(call: Call, place: int = 1, default: int = -1) -> Found:
    """Softmax, cumulative sums, sorting: the shape stays (but for the length of that axis)."""
    labels = call.first()
    axis = call.argument(place, "dim", default) % max(labels.ndim, 1)
    if axis in varying(labels):
        return call.mixed()
    return [labels.narrow(axis, 0, 1).expand(one.shape) if labels.ndim else labels for one in call.outputs]


def _over_maps(call: Call, axes: int) -> Found:
    """Pooling and resizing of each channel's map, its last ``axes`` axes."""
    labels = call.first()
    if {labels.ndim - 1 - axis for axis in range(axes)} & varying(labels):
        return call.mixed()
    small = labels
    for axis in range(axes):
        small = small.narrow(-1 - axis, 0, 1)
    return [small.expand(one.shape) if one.ndim == labels.ndim else None for one in call.outputs]


def _rolled(call: Call) -> Found:
    """Rotated along axes where the channel does not change, as windows are."""
    axes = call.argument(2, "dims", [])
    given = [axes] if isinstance(axes, int) else axes
    labels = call.first()
    return call.mixed() if not given or {axis % labels.ndim for axis in given} & varying(labels) else [labels]


def _picked(call: Call) -> Found:
    """Elements by index, where the indices do not pick channels."""
    labels, indices = call.first(), call.argument(1, "indices")
    if isinstance(indices, list | tuple):
        axes = {axis for axis, index in enumerate(indices) if index is not None}
    else:
        axes = {call.argument(1, "dim") % labels.ndim}
    return call.mixed() if axes & varying(labels) else _moved(call)


def _new(call: Call) -> Found:
    return [None for _ in call.outputs]


_MIXING = {
    "bmm": ATTENTION, "scaled_dot_product": ATTENTION, "mm": MULTIPLIED, "convolution": MULTIPLIED, "layer_norm": LAYER_NORM,
    "rms_norm": LAYER_NORM, "group_norm": GROUP_NORM,
}  # fmt: skip
_RULES: dict[Rule, str] = {
    _moved: "permute transpose t expand unsqueeze squeeze select unbind repeat flip pixel_shuffle pixel_unshuffle detach alias "
    "channel_shuffle unfold diagonal movedim as_strided_scatter",
    _viewed: "view _unsafe_view reshape _reshape_alias",
    _pointwise: "_to_copy contiguous lift_fresh clone fill zero bernoulli normal uniform hardswish hardsigmoid celu "
    "masked_fill where",
    _same: "zeros_like ones_like full_like empty_like rand_like randn_like native_dropout dropout",
    _copied: "copy",
    _split: "split split_with_sizes chunk",
    _sliced: "slice",
    _gated: "glu",
    _joined: "cat stack",
    _padded: "constant_pad_nd",
    _reduced: "sum mean amax amin max min var std var_mean std_mean prod norm linalg_vector_norm logsumexp any all "
    "argmax argmin",
    _ordered: "_softmax _log_softmax cumsum cumprod sort argsort",
    partial(_ordered, place=2): "topk",
    partial(
        _over_maps, axes=1
    ): "max_pool1d_with_indices avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d "
    "upsample_linear1d reflection_pad1d replication_pad1d",
    partial(_over_maps, axes=2): "max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d "
    "adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa "
    "upsample_bicubic2d _upsample_bicubic2d_aa reflection_pad2d replication_pad2d grid_sampler_2d max_pool2d",
    partial(_over_maps, axes=3): "max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool3d "
    "adaptive_max_pool3d upsample_nearest3d upsample_trilinear3d reflection_pad3d replication_pad3d",
    _rolled: "roll",
    _picked: "index index_select",
    _new: "new_zeros new_ones new_full new_empty new_empty_strided is_same_size scalar_tensor",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _RULES.items() for name in names.split()}
