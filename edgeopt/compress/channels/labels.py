"""Labels of channels on the elements of tensors, and what they say where tensors meet.

A label tensor has the shape of the tensor that it describes: above 0 the number of the channel that the element belongs to, 0
nothing that could leave, below 0 the number of a reason for which what it meets must stay. Axes along which nothing changes
are usually expanded, so that a label tensor is no larger than its channels.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

WIDTH = "they meet values of a fixed width: inputs, constants, or what the model's own code computes"
SHARED = "one of its channels meets several channels of others"
UNEVEN = "its channels are split in unequal parts"


@dataclass(slots=True)
class Book:
    """What is learnt on the way: how many labels there are, which are one channel, which must stay and why, what was split."""

    count: int = 1
    edges: list[Tensor] = field(default_factory=list)
    held: list[tuple[Tensor, str]] = field(default_factory=list)
    splits: list[Tensor] = field(default_factory=list)
    """Label tensors of axes that became several, without their other axes: one of them is flexible, which is tried out."""
    reasons: list[str] = field(default_factory=list)
    waiting: dict[int, Tensor] = field(default_factory=dict)
    """By the label of a number that was computed from many channels: theirs."""
    parameters: int = 1
    """Labels below are of parameters, whose every element has one of its own."""

    def new(self, number: int) -> Tensor:
        """Labels for ``number`` channels that were not seen before."""
        first, self.count = self.count, self.count + number
        return torch.arange(first, self.count)

    def fixed(self, reason: str, numbers: Tensor | None = None) -> int:
        """The label of values for which what meets them must stay; ``numbers``: what stays once anything meets them."""
        if numbers is not None:
            self.reasons.append(reason)
            self.waiting[-len(self.reasons)] = numbers
            return -len(self.reasons)
        known = [-1 - place for place, told in enumerate(self.reasons) if told == reason and -1 - place not in self.waiting]
        if not known:
            self.reasons.append(reason)
        return known[0] if known else -len(self.reasons)

    def used(self, labels: Tensor) -> None:
        """Values with these labels are computed with: what they were made of stays."""
        for mark in distinct(core(labels)).tolist() if self.waiting else ():
            if (made := self.waiting.pop(mark, None)) is not None:
                self.hold(made, self.reasons[-1 - mark])
                self.used(made)

    def of_parameter(self, labels: Tensor) -> bool:
        """Whether these are labels of parameters alone: which of their axes are channels is not known yet."""
        return not bool((core(labels) >= self.parameters).any())

    def hold(self, labels: Tensor, reason: str) -> None:
        """These channels stay."""
        found = distinct(core(labels))
        if len(found := found[found > 0]):
            self.held.append((found.cpu(), reason))

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Elements at the same place are of the same channel."""
        pairs = core_pair(*broadcast(one, other))
        pairs = pairs[:, (pairs[0] > 0) & (pairs[1] > 0) & (pairs[0] != pairs[1])]
        if pairs.numel():
            self.edges.append(distinct(pairs, dim=1).cpu())

    def hold_against(self, labels: Tensor, other: Tensor) -> None:
        """Channels stay where ``other`` at the same place has none, for its reason."""
        mine, theirs = core_pair(*broadcast(labels, other))
        for value in distinct(theirs[(mine > 0) & (theirs <= 0)]).tolist():
            self.hold(mine[theirs == value], self.reasons[-1 - value] if value < 0 else WIDTH)

    def meet(self, one: Tensor, other: Tensor) -> Tensor:
        """Labels of what is computed element by element from two tensors with these labels (each of its tensor's own shape)."""
        shape = broadcast(one, other)[0].shape
        mine, theirs = varying(one), varying(other)
        rank = len(shape)
        mine, theirs = {axis + rank - one.ndim for axis in mine}, {axis + rank - other.ndim for axis in theirs}
        a, b = one.expand(shape), other.expand(shape)
        if self.of_parameter(other) or self.of_parameter(one):
            return self._with_parameter(a, b, mine, theirs)
        if not mine & theirs and (mine or theirs) and bool((core(b if mine else a) > 0).any()):
            return self._shared(one, other) if mine and theirs else self._gated(a, b) if mine else self._gated(b, a)
        if any(_size(other, axis, rank) > 1 for axis in mine) or bool((core(other) < 0).any()):
            self.hold_against(a, b)
        if any(_size(one, axis, rank) > 1 for axis in theirs) or bool((core(one) < 0).any()):
            self.hold_against(b, a)
        self.unite(a, b)
        return joined(a, b)

    def _gated(self, labels: Tensor, gate: Tensor) -> Tensor:
        """One channel that meets several others: these go on."""
        self.hold(gate, SHARED)
        return labels

    def _shared(self, one: Tensor, other: Tensor) -> Tensor:
        """Each channel of one meets every channel of the other."""
        self.hold(one, SHARED)
        self.hold(other, SHARED)
        return torch.full((), self.fixed(SHARED), device=one.device).expand(broadcast(one, other)[0].shape)

    def _with_parameter(self, a: Tensor, b: Tensor, mine: set[int], theirs: set[int]) -> Tensor:
        """A parameter's every element belongs to the channel that it meets, unless it meets several."""
        if self.of_parameter(a) and not self.of_parameter(b):
            a, b, mine, theirs = b, a, theirs, mine
        if bool((core(b) > 0).any()) and (mine & theirs or not mine):
            self.hold_against(b, a)
            self.unite(a, b)
        return joined(a, b)


def distinct(values: Tensor, dim: int | None = None) -> Tensor:
    """Every value, or every slice along ``dim``, once."""
    found: Tensor = torch.unique(values, dim=dim)
    return found


def broadcast(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the shape that they have together."""
    a, b = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call]
    return a, b


def joined(a: Tensor, b: Tensor) -> Tensor:
    """The label of a channel where there is one, else whatever label there is; expanded where both are."""
    small_a, small_b = _narrowed(a, b)
    return torch.where(small_a > 0, small_a, torch.where(small_b != 0, small_b, small_a)).expand(a.shape)


def core(labels: Tensor) -> Tensor:
    """Without the repetitions of expanded axes."""
    for axis, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def core_pair(a: Tensor, b: Tensor) -> Tensor:
    """Two label tensors of one shape as [2, n], without repetitions that both have."""
    a, b = _narrowed(a, b)
    return torch.stack((a.reshape(-1), b.reshape(-1)))


def varying(labels: Tensor) -> set[int]:
    """The axes along which labels differ."""
    small = core(labels)
    if not small.numel():
        return set()
    return {axis for axis, size in enumerate(small.shape) if size > 1 and bool((small != small.narrow(axis, 0, 1)).any())}


def compact(labels: Tensor) -> Tensor:
    """The same with every axis expanded along which nothing differs."""
    differing = varying(labels)
    small = labels
    for axis, size in enumerate(labels.shape):
        if size > 1 and axis not in differing:
            small = small.narrow(axis, 0, 1)
    return small.contiguous().expand(labels.shape)


def along(labels: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """One label for each place along ``axis`` of a tensor of ``shape``."""
    view = [1] * len(shape)
    view[axis] = -1
    return labels.view(view).expand(shape)


def split_axes(before: torch.Size, after: torch.Size) -> list[list[int]]:
    """The axes of ``after`` that one run of axes of ``before`` became by a view, run by run, where it became several."""
    found = list[list[int]]()
    i = j = 0
    while i < len(before) and j < len(after):
        left, right, start = before[i], after[j], j
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                return found
        if j - start > 1:
            found.append(list(range(start, j)))
    return found


def _size(labels: Tensor, axis: int, rank: int) -> int:
    own = axis - rank + labels.ndim
    return labels.shape[own] if own >= 0 else 1


def _narrowed(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and a.stride(axis) == 0 and b.stride(axis) == 0:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
    return a, b
