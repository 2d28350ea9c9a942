"""Data without labels as training batches: calibration data comes in single samples, often in the order of their classes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.technique import Context, TrainBatches
from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch
from edgeopt.model.signature import Signature, call_arguments

BATCH = 64
"""Samples put together; batch norms need some."""
MOST_BYTES = 1 << 30
"""Of samples held in memory; the rest of the data is not used."""


def training_batches(module: nn.Module, context: Context) -> TrainBatches:
    """The user's training batches, for ``train_step`` as they are and without it the inputs alone; where there are none, the
    calibration data in batches of :data:`BATCH`, in a new order each time.

    Raises CompressionError where there is neither.
    """
    labelled = context.train_batches
    if labelled is not None and context.train_step is not None:
        return labelled
    if labelled is not None:
        return lambda: (inputs(batch, context.example_inputs) for batch in (labelled() if callable(labelled) else labelled))
    if context.batches is None:
        raise CompressionError(
            "there is nothing to train on", fix="give training batches, or unlabelled data as for calibration"
        )
    signature, _ = Signature.of(module.forward, context.example_inputs)
    samples = _samples(context, signature)
    if not samples:
        raise CompressionError("the calibration data is empty", fix="give at least some dozen samples")
    return lambda: _shuffled(samples, signature)


def inputs(batch: Batch, example: Batch) -> Batch:
    """The model's inputs alone, as ``example`` has them: data loaders give labels behind them."""
    batch = pytree.tree_map(lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, batch)
    args, kwargs = call_arguments(batch)
    wanted_args, wanted = call_arguments(example)
    return {name: value for name, value in kwargs.items() if name in wanted} or args[: len(wanted_args)]


def labels(batch: Batch, example: Batch) -> Tensor | None:
    """The class numbers [N] behind the inputs, or by the name ``labels``; None where there are none."""
    args, kwargs = call_arguments(batch)
    rest = args[len(call_arguments(example)[0]) :]
    found = kwargs.get("labels") if kwargs else (rest[0] if len(rest) == 1 else None)
    found = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    is_class = isinstance(found, Tensor) and found.ndim == 1 and not found.is_floating_point()
    return found if is_class else None


def _shuffled(samples: list[tuple[Tensor, ...]], signature: Signature) -> Iterator[Batch]:
    for chosen in torch.split(torch.randperm(len(samples)), BATCH):
        columns = zip(*(samples[index] for index in chosen), strict=True)
        args, kwargs = pytree.tree_unflatten([torch.cat(column) for column in columns], signature.tree)
        yield kwargs or args


def _samples(context: Context, signature: Signature) -> list[tuple[Tensor, ...]]:
    found, held = list[tuple[Tensor, ...]](), 0
    for batch in context.data():
        for sample in signature.split(batch, "a calibration batch"):
            held += sum(value.nbytes for value in sample)
            if held > MOST_BYTES:
                context.tell(f"the first {len(found):,} samples are trained on: more would not fit into memory")
                return found
            found.append(sample)
    return found
