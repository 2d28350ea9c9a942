"""Early exits: heads inside the network that answer the easy samples (BranchyNet, arXiv:1709.01686).

    compressed = EarlyExit(shares=(0.25, 0.5), epochs=5, max_drop=0.005).apply(module, context)
    compressed.module.parts(example_inputs)          # one artifact per stage
    measured(compressed.module, batches, example)    # shares of samples, average MACs, accuracy on data of your own

The heads learn the network's own answers, so data without labels is enough.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.measures import macs
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.training import Trainer, fine_tune
from edgeopt.compress.distill.unlabelled import inputs, labels, training_batches
from edgeopt.compress.early_exit.exits import EarlyExits, Stage, confidence, trunks
from edgeopt.compress.early_exit.places import Head, Places
from edgeopt.compress.early_exit.thresholds import NEVER, Bools, Cascade, Floats, calibrated, cascade
from edgeopt.compress.early_exit.training import InTraining, lesson
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record, TrainBatches
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments

WORTH = 0.95
"""Share of the network's MACs beyond which an exit saves too little."""


@data_class
class EarlyExit:
    """Exits ``after`` the named layers, else where these ``shares`` of the MACs are done.

    ``head``: ``conv`` is a 3x3 convolution of stride 2 before the pooling, ``linear`` pools at once; encoders always pool their
    tokens. ``trunk``: ``frozen`` leaves the network as it is, ``joint`` trains it too, with its own answers (and the user's
    ``train_step``) to hold it. ``max_drop``: the accuracy that the thresholds may cost, calibrated on Context.held_out (else on
    the calibration data); an exit that cannot help within it is taken out.
    """

    after: tuple[str, ...] = ()
    shares: tuple[float, ...] = (0.25, 0.5)
    head: Head = "conv"
    trunk: Literal["frozen", "joint"] = "frozen"
    epochs: int = 5
    learning_rate: float = 3e-3
    max_drop: float = 0.005

    def __post_init__(self) -> None:
        if not self.after and not self.shares:
            raise ValueError("give the layers after which the exits go, or shares of the MACs")
        if not all(0 < share < 1 for share in self.shares):
            raise ValueError("shares are of the network's MACs: between 0 and 1")
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1: new heads know nothing")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError("learning_rate must be above 0")
        if not 0 <= self.max_drop < 1:
            raise ValueError("max_drop is a share of the samples: at least 0, below 1")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """An :class:`EarlyExits`; an equal copy where no exit pays. Raises CompressionError for a network that is no chain."""
        held_out, warning = _held_out(context)
        batches = training_batches(module, context)
        network = copied(module)
        places = Places.of(network, context.example_inputs)
        cuts, left = self._cuts(places)
        if not cuts:
            return Compressed(module=copied(module), record=self._record(left, "no place is left for an exit"))
        net = EarlyExits(places.stages(cuts, self.head), [NEVER] * len(cuts))
        self._train(net, module, context, batches)
        found = _calibrated(net, held_out, context.example_inputs, self.max_drop)
        layers = (*left, *(_change(places, cut, found, index) for index, cut in enumerate(cuts)))
        if all(threshold == NEVER for threshold in found.thresholds):
            few = f" ({found.samples:,} samples show no drop below {1 / found.samples:.2%}: more may help)"
            why = f"no exit is sure to keep within {self.max_drop:.2%}{few}: the network is unchanged"
            return Compressed(module=copied(module), record=self._record(layers, why, *warning))
        kept = _without_idle(net, found.thresholds)
        words = _in_words(measured(kept, held_out, context.example_inputs), places.macs)
        return Compressed(module=kept.train(module.training), record=self._record(layers, *words, *warning))

    def _cuts(self, places: Places) -> tuple[list[int], tuple[LayerChange, ...]]:
        """The links after which exits go, in order, and the places that were left."""
        wanted = [(layer, places.last_of(layer)) for layer in self.after]
        wanted = wanted or [(f"{share:.0%} of the MACs", places.where(share)) for share in self.shares]
        cuts, left = list[int](), list[LayerChange]()
        for asked, cut in sorted(wanted, key=lambda place: place[1]):
            if places.done(cut) > WORTH:
                reason = f"{places.done(cut):.0%} of the MACs are done there: an exit saves too little"
            elif cut in cuts:
                reason = "another exit is there already"
            else:
                cuts.append(cut)
                continue
            left.append(LayerChange(layer=places.name(cut), action="left", before=asked, reason=reason))
        return cuts, tuple(left)

    def _train(self, net: EarlyExits, module: nn.Module, context: Context, batches: TrainBatches) -> None:
        frozen = self.trunk == "frozen"
        trunk = [parameter for part in trunks(net) for parameter in part.parameters()]
        before = [parameter.requires_grad for parameter in trunk]
        step = context.train_step if context.train_batches is not None else None  # it wants labels
        teacher = module if frozen else copied(module).eval()
        trainer = Trainer(
            train_step=lesson(teacher, step, frozen), batches=batches, learning_rate=self.learning_rate,
            checkpoint=context.checkpoint, tell=context.tell,
        )  # fmt: skip
        for parameter in trunk:
            parameter.requires_grad_(not frozen and parameter.is_floating_point())
        fine_tune(trainer.fit, InTraining(net, frozen), self.epochs)
        for parameter, flag in zip(trunk, before, strict=True):
            parameter.requires_grad_(flag)

    def _record(self, layers: tuple[LayerChange, ...], *notes: str) -> Record:
        return Record(technique="early-exit", settings=to_data(self), layers=layers, notes=notes)


def measured(net: EarlyExits, batches: TrainBatches, example_inputs: Batch) -> Cascade:
    """What the network's thresholds come to on ``batches``; without labels behind the inputs, agreement with its last exit."""
    seen, right = _answers(net, batches, example_inputs)
    return cascade(seen, right, _costs(net, example_inputs), net.thresholds)


def _calibrated(net: EarlyExits, batches: TrainBatches, example_inputs: Batch, max_drop: float) -> Cascade:
    seen, right = _answers(net, batches, example_inputs)
    return calibrated(seen, right, _costs(net, example_inputs), max_drop)


def _answers(net: EarlyExits, batches: TrainBatches, example_inputs: Batch) -> tuple[Floats, Bools]:
    """Confidences [exits - 1, samples] and whether each exit is right [exits, samples]."""
    seen, right = list[Tensor](), list[Tensor]()
    with evaluating(net):
        for batch in batches() if callable(batches) else batches:
            args, kwargs = call_arguments(inputs(batch, example_inputs))
            scores = net.scores(*args, *kwargs.values())
            said = torch.stack([one.argmax(-1) for one in scores])
            truth = labels(batch, example_inputs)
            right.append(said == (said[-1] if truth is None else truth))
            seen.append(torch.stack([confidence(one) for one in scores[:-1]]))
    if not seen:
        raise CompressionError("the held-out data is empty", fix="give some thousand samples that nothing was trained on")
    return torch.cat(seen, 1).double().numpy(), torch.cat(right, 1).numpy()


def _costs(net: EarlyExits, example_inputs: Batch) -> tuple[int, ...]:
    """MACs up to each exit."""
    return tuple(accumulate(macs(stage, example) for stage, example in net.parts(example_inputs)))


def _held_out(context: Context) -> tuple[TrainBatches, tuple[str, ...]]:
    """The data for the thresholds, and what is to be said about it."""
    if context.held_out is not None:
        return context.held_out, ()
    if context.batches is None:
        fix = "give held-out batches, with labels where there are some"
        raise CompressionError("there is no data to calibrate the exits on", fix=fix)
    return context.batches, ("calibrated on the calibration data: the budget holds only if nothing was trained on it",)


def _without_idle(net: EarlyExits, thresholds: Sequence[float]) -> EarlyExits:
    """Without the exits that no sample may take; their stages go on into the next."""
    *early, last = net.stages
    stages, waiting, used = list[nn.Module](), list[nn.Module](), list[float]()
    for stage, threshold in zip(early, thresholds, strict=True):
        assert isinstance(stage, Stage) and isinstance(stage.trunk, nn.Sequential)
        waiting += stage.trunk
        if threshold < NEVER:
            stages.append(Stage(nn.Sequential(*waiting), stage.head))
            used.append(threshold)
            waiting = []
    assert isinstance(last, nn.Sequential)
    return EarlyExits([*stages, nn.Sequential(*waiting, *last)], used)


def _change(places: Places, cut: int, found: Cascade, index: int) -> LayerChange:
    threshold, before = found.thresholds[index], f"{places.done(cut):.0%} of the MACs done"
    if threshold == NEVER:
        reason = "no threshold here saves anything within the budget"
        return LayerChange(layer=places.name(cut), action="left", before=before, reason=reason)
    after = f"exit of {found.shares[index]:.1%} of the samples, at confidence {threshold:.4f}"
    return LayerChange(layer=places.name(cut), action="changed", before=before, after=after)


def _in_words(found: Cascade, whole: int) -> tuple[str, ...]:
    """The expected cost and the accuracy, on the held-out data."""
    exits = ", ".join(f"{share:.1%} at {cost:,}" for share, cost in zip(found.shares, found.costs, strict=True))
    return (
        f"{found.macs:,.0f} MACs expected on average, {found.macs / whole:.1%} of {whole:,}; shares by exit: {exits}",
        f"a sample that no exit answers costs {found.costs[-1] / whole - 1:.1%} more than without exits",
        f"right on {found.accuracy:.2%} of {found.samples:,} held-out samples, {found.full_accuracy:.2%} without exits; "
        f"with 95% confidence the drop is at most {found.drop_bound:.2%}",
    )
