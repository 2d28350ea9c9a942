"""One set of weights for a whole family: every network in it is a part of the largest one.

Slimmable networks (Yu et al., 2019, arXiv:1812.08928): a smaller network takes the leading channels of every weight (and, as in
once-for-all, arXiv:1908.09791, the centre of larger kernels). Training follows the sandwich rule with in-place distillation
(Yu & Huang, 2019, arXiv:1903.05134): each step trains the largest network on the labels, and the smallest and some random
ones on the largest one's outputs. Statistics of batch norms are computed anew for each network that is taken out.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.search.family import RESOLUTION, Architecture, Family, described, fed, key, resized
from edgeopt.compress.technique import Context
from edgeopt.errors import CompressionError
from edgeopt.model.signature import Signature, flat_outputs

Imitation = Literal["kl", "mse"]
"""How a smaller network learns from the largest: ``kl`` between class scores (last axis), ``mse`` for any other outputs."""
CALIBRATION_ROWS = 2048
"""Samples that batch norms see, as the paper's authors use at most; in batches of CALIBRATION_BATCH."""
CALIBRATION_BATCH = 128


class Supernet(nn.Module):
    """What ``fit(model, epochs)`` trains. Its parameters are the largest network's; in eval mode it computes just that one.

    In training each forward also runs the smallest and ``sampled`` random networks. Their loss reaches the weights with the
    gradient of the outputs, so that a user's training code needs to know nothing of it. A training that scales its loss (mixed
    precision) scales only the largest one's.
    """

    def __init__(self, family: Family, *, sampled: int = 2, imitation: Imitation = "kl", seed: int = 0) -> None:
        super().__init__()
        self.family = family
        self.largest = family.make(family.largest)
        self._sampled, self._imitation = sampled, imitation
        self._random = random.Random(seed)
        self._templates: dict[Any, tuple[nn.Module]] = {}  # in tuples: not sub-modules, their weights are not used
        self._template(family.smallest)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the largest network."""
        outputs = self._run(self.family.largest, args, kwargs)
        if not (self.training and torch.is_grad_enabled()):
            return outputs
        teacher = [value.detach() for value in flat_outputs(outputs)[1]]
        others = [self.family.smallest] if len(self.family) > 1 else []
        others += [self._any() for _ in range(self._sampled)] if len(self.family) > 2 else []
        losses = [self._distance(flat_outputs(self._run(one, args, kwargs))[1], teacher) for one in others]
        return _with_loss(outputs, torch.stack(losses).sum()) if losses else outputs

    def take(self, architecture: Architecture, context: Context) -> nn.Module:
        """A network of its own, in eval mode, with the shared weights and batch norms calibrated on the context's batches."""
        module = self.family.make(architecture)
        module.load_state_dict(self._parts(module.state_dict(), architecture))
        recalibrate(module, context, architecture)
        return module.eval()

    def _any(self) -> Architecture:
        return {name: self._random.choice(choices) for name, choices in self.family.choices.items()}

    def _run(self, architecture: Architecture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if RESOLUTION in architecture:
            args, kwargs = resized((args, kwargs), architecture[RESOLUTION])
        if architecture == self.family.largest:
            return self.largest(*args, **kwargs)
        template = self._template(architecture)
        template.train(self.training)
        weights = self._parts(dict(template.named_parameters()), architecture)
        device = next(iter(weights.values())).device
        buffers = {name: value.to(device) for name, value in template.named_buffers()}
        return functional_call(template, buffers | weights, args, kwargs)

    def _template(self, architecture: Architecture) -> nn.Module:
        """The network whose weights the shared ones stand in for: its own are on the meta device and take no memory."""
        name = key(architecture)
        if name not in self._templates:
            template = self.family.make(architecture)
            self._parts(template.state_dict(), architecture)
            _forget_weights(template)
            self._templates[name] = (template,)
        return self._templates[name][0]

    def _parts(self, wanted: dict[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """The shared tensors cut to the shapes of ``wanted``. Raises CompressionError where they are no parts."""
        whole = dict(self.largest.named_parameters()) | dict(self.largest.named_buffers())
        parts = {}
        for name, value in wanted.items():
            shared = whole.get(name)
            if shared is None or not _fits(value.shape, shared.shape):
                there = "has no such tensor" if shared is None else f"has {tuple(shared.shape)}"
                why = f"{name} is {tuple(value.shape)}; the largest, {described(self.family.largest)}, {there}"
                fix = "name layers alike in all sizes (a stage of blocks: blocks.0, blocks.1, ...), or search without sharing"
                raise CompressionError(f"{described(architecture)} cannot share weights", why=why, fix=fix)
            parts[name] = _cut(shared, value.shape)
        return parts

    def _distance(self, outputs: tuple[Tensor, ...], teacher: list[Tensor]) -> Tensor:
        return torch.stack([self._one(a, b) for a, b in zip(outputs, teacher, strict=True) if b.ndim > 1]).sum()

    def _one(self, output: Tensor, teacher: Tensor) -> Tensor:
        if output.shape != teacher.shape:
            why = f"the outputs are {tuple(output.shape)} and {tuple(teacher.shape)}"
            fix = "a family that shares weights gives outputs of one shape"
            raise CompressionError("a smaller network cannot imitate the largest", why=why, fix=fix)
        if self._imitation == "mse":
            return nn.functional.mse_loss(output, teacher)
        log_scores, log_aim = (value.flatten(0, -2).log_softmax(-1) for value in (output, teacher))
        return nn.functional.kl_div(log_scores, log_aim, reduction="batchmean", log_target=True)


class _AddLoss(torch.autograd.Function):
    """Passes tensors on; when any of them is differentiated, a loss is too, once."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0].new_ones(()), *gradients)


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    leaves, tree = pytree.tree_flatten(outputs)
    places = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    passed = _AddLoss.apply(loss, *(leaves[number] for number in places))  # type: ignore[no-untyped-call]
    for number, value in zip(places, cast(tuple[Tensor, ...], passed), strict=True):
        leaves[number] = value
    return pytree.tree_unflatten(leaves, tree)


def _forget_weights(module: nn.Module) -> None:
    """Every parameter of ``module`` moves to the meta device; tied ones stay tied."""
    moved = {id(value): nn.Parameter(value.to("meta"), value.requires_grad) for value in module.parameters()}
    for one in module.modules():
        for name, value in list(one.named_parameters(recurse=False)):
            setattr(one, name, moved[id(value)])


def _fits(shape: torch.Size, whole: torch.Size) -> bool:
    return len(shape) == len(whole) and all(part <= size for part, size in zip(shape, whole, strict=True))


def _cut(shared: Tensor, shape: torch.Size) -> Tensor:
    """The leading part along the first two axes (channels), the middle along the others (kernels)."""
    starts = [0 if axis < 2 else (shared.shape[axis] - size) // 2 for axis, size in enumerate(shape)]
    return shared[tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))]


def recalibrate(module: nn.Module, context: Context, architecture: Architecture) -> None:
    """Batch norms of ``module``, in place: means and variances over the context's batches (cumulative, not moving averages).

    Raises CompressionError where there are batch norms and no batches.
    """
    norms = [one for one in module.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]
    if not norms:
        return
    if context.batches is None:
        why = "its batch norms hold statistics of other widths"
        raise CompressionError("a shared network needs data to be taken out", why=why, fix="give batches in the context")
    fed_module = fed(module, architecture)
    with _measuring(module, norms):
        for args, kwargs in _chunks(fed_module, context):
            fed_module(*args, **kwargs)


@contextmanager
def _measuring(module: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Only the batch norms are in training mode: dropout stays off."""
    momenta = [norm.momentum for norm in norms]
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _chunks(module: nn.Module, context: Context) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The context's samples in batches large enough for a variance, as arguments of calls."""
    signature, example = Signature.of(module.forward, context.example_inputs)
    rows, waiting = 0, list[tuple[Tensor, ...]]()
    size = max(1, CALIBRATION_BATCH // max(1, len(example[0])))
    for batch in context.data():
        for sample in signature.split(batch, "a batch"):
            waiting.append(sample)
            rows += len(sample[0])
            if len(waiting) == size:
                yield _joined(waiting, signature)
                waiting = []
        if rows >= CALIBRATION_ROWS:
            break
    if waiting:
        yield _joined(waiting, signature)


def _joined(samples: list[tuple[Tensor, ...]], signature: Signature) -> Any:
    flat = [torch.cat(values) for values in zip(*samples, strict=True)]
    return pytree.tree_unflatten(flat, signature.tree)
