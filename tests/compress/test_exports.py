"""What every technique leaves is exported to every target, and each artifact verifies.

Techniques follow each other on one network where that loses nothing: the exports take most of the time.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.cluster.cluster import Cluster
from edgeopt.compress.common.training import Trainer
from edgeopt.compress.distill.distill import Distill
from edgeopt.compress.distill.students import narrower
from edgeopt.compress.early_exit.early_exit import EarlyExit
from edgeopt.compress.early_exit.exits import EarlyExits
from edgeopt.compress.heads.heads import Heads
from edgeopt.compress.layers.layer_drop import Layers
from edgeopt.compress.low_rank.low_rank import LowRank
from edgeopt.compress.search.family import Family
from edgeopt.compress.search.supernet import Supernet
from edgeopt.compress.technique import Context, Technique
from edgeopt.compress.zeros.lottery import Lottery
from edgeopt.compress.zeros.magnitude import Magnitude
from edgeopt.compress.zeros.nm import NM
from edgeopt.compress.zeros.pattern import pattern_holds
from edgeopt.targets import loader
from examples import digits
from tests.compress.channels import nets
from tests.compress.search import families
from tests.compress.transformer_nets import HIDDEN, bert, plain_encoder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log

SAMPLES = 16
Batches = list[tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A compressed network and ``data`` as it is called with. ``proof`` looks at the folder of its artifacts."""

    module: nn.Module
    data: Batches
    proof: Callable[[nn.Module, Path], None] = lambda module, folder: None


def followed(net: nn.Module, context: Context, *techniques: Technique) -> nn.Module:
    """All ``techniques`` in turn, each of which changes something."""
    for technique in techniques:
        done = technique.apply(net, context)
        assert done.record.changed, done.record
        net = done.module
    return net


def random_batches(*shape: int) -> Batches:
    torch.manual_seed(0)
    return [(torch.randn(1, *shape),) for _ in range(SAMPLES)]


@cache
def digits_context() -> Context:
    given = {"train_step": families.train_step, "train_batches": families.batches}
    return families.context(held_out=lambda: [families.data()[2:]], **given)


def digits_batches() -> Batches:
    return [(image,) for image in families.data()[0][:SAMPLES].split(1)]


def narrowed_factorised_and_clustered() -> Iterator[Case]:
    data = random_batches(3, 8, 8)
    net = nets.Random((("residual", 16), ("concat", 32), ("depthwise", 16))).eval()
    tucker = LowRank(share=0.6, min_parameters=0, exclude=("end*",))
    cp = LowRank(share=0.6, min_parameters=0, conv="cp", exclude=("stages*",))
    steps = Channels(amount=0.3), tucker, cp, Cluster(centroids=16, min_parameters=0)
    yield Case(followed(net, Context(example_inputs=data[0]), *steps), data, palettes_hold_the_weights)


def taught_student_of_a_supernet_with_early_exits() -> Iterator[Case]:
    """The whole, and its first stage, which has two outputs; the last is a part of the student as it was."""
    torch.manual_seed(0)
    family = Family.of(families.build, {"width": (0.5, 1.0), "depth": (1, 2)})
    child = Supernet(family).take({"width": 1.0, "depth": 2}, digits_context())
    student, _ = narrower(child, 0.5, digits_context().example_inputs)
    steps = Distill(epochs=2), EarlyExit(epochs=2, max_drop=0.5)
    net = followed(digits.trained(), replace(digits_context(), student=student), *steps)
    assert isinstance(net, EarlyExits)
    yield Case(net, digits_batches())
    firsts = [net.parts(image)[0] for image in digits_batches()]
    yield Case(firsts[0][0], [inputs for _, inputs in firsts])


def two_of_four() -> Iterator[Case]:
    data = random_batches(4, 8, 8)
    yield Case(followed(Net().eval(), Context(example_inputs=data[0]), NM()), data, pattern_is_in_every_file)


def ticket_of_a_recurrent_net() -> Iterator[Case]:
    """Pruned further, and clustered."""
    data = random_batches(20, 12)

    def step(module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return (module(*batch) - batch[0].mean((1, 2))[:, None]).square().mean()

    steps = Lottery(sparsity=0.5, rounds=1, epochs=1), Magnitude(sparsity=0.7), Cluster(centroids=32)
    context = Context(example_inputs=data[0], fit=Trainer(train_step=step, batches=data).fit)
    yield Case(followed(Recurrent().eval(), context, *steps), data)


def bert_without_neurons_heads_and_a_layer() -> Iterator[Case]:
    steps = Channels(amount=0.33), Heads(amount=0.5, scope="global"), Layers(count=1)
    net = FirstOutput(bert(attn_implementation="eager")).eval()
    data: Batches = [(ids,) for ids in torch.randint(1, 50, (SAMPLES, 10)).split(1)]
    yield Case(followed(net, Context(example_inputs=data[0]), *steps), data)


def plain_encoder_without_heads_in_factors() -> Iterator[Case]:
    data = random_batches(6, HIDDEN)
    steps = Heads(amount=0.5), LowRank(share=0.5, min_parameters=0)
    yield Case(followed(plain_encoder(), Context(example_inputs=data[0]), *steps), data)


@pytest.mark.parametrize("made", [
    narrowed_factorised_and_clustered, taught_student_of_a_supernet_with_early_exits, two_of_four, ticket_of_a_recurrent_net,
    bert_without_neurons_heads_and_a_layer, plain_encoder_without_heads_in_factors,
], ids=lambda made: made.__name__)  # fmt: skip
def test_every_target_takes(made: Callable[[], Iterator[Case]], tmp_path: Path) -> None:
    every = {(name, one) for name in loader.names() for one in loader.load(name).formats}
    jobs = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    for number, case in enumerate(made()):
        out = tmp_path / str(number)
        bundle = edgeopt.export(case.module, case.data[0], calibration=case.data, out=out, jobs=jobs, use_cache=False)
        results = bundle.manifest.results
        assert {(result.target, result.format) for result in results} == every
        assert not [(result.target, result.reason) for result in results if result.status != "ok"]
        case.proof(case.module, out)


class Recurrent(nn.Module):
    """With a layer before the recurrent one, which has no integer kernels, that every integer target gains from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.gru, self.head = nn.Linear(12, 64), nn.GRU(64, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.gru(self.stem(x).relu())[0][:, -1])
        return scores


class Net(nn.Module):
    """Layers whose inputs lie on different axes: a convolution, a transposed one, which stays dense, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(4, 16, 3), nn.ConvTranspose2d(16, 8, 2, 2)
        self.sequence, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.conv(x).relu()).relu().flatten(2).mT
        scores: Tensor = self.last(self.sequence(x).relu().mean(1))
        return scores


class FirstOutput(nn.Module):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor) -> Tensor:
        states: Tensor = self.transformer(input_ids).last_hidden_state
        return states


def pattern_is_in_every_file(module: nn.Module, folder: Path) -> None:
    files = [*folder.rglob("*.onnx"), *folder.rglob("*.tflite")]
    assert len(files) >= 9
    for path in files:
        dense, *others = sorted(pattern_holds(path), key=lambda layer: layer.zeros)
        assert dense.shape.index(16) in (0, 3) and not dense.holds, path.name  # the transposed convolution
        assert [layer.holds for layer in others] == [True] * 3, path.name
        assert all(layer.zeros >= 0.5 for layer in others)
        assert not any(layer.holds for layer in pattern_holds(path, 1, 4))


def palettes_hold_the_weights(module: nn.Module, folder: Path) -> None:
    """Core ML's palettization finds the few values of every weight: of 4 bits, and exactly these."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    (package,) = (path for path in folder.rglob("*.mlpackage") if "apple-ane-fp16" in str(path))
    exported = ct.models.MLModel(str(package), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(mode="unique", weight_threshold=0))
    found = palettes(cto.palettize_weights(exported, config))
    weights = [value.detach().numpy().astype(np.float16) for value in module.parameters() if value.ndim > 1]
    assert len(found) == len(weights) >= 6
    for weight in weights:
        assert 4 in [bits for bits, whole in found if whole.shape == weight.shape and np.array_equal(whole, weight)]


def palettes(model: Any) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """Bits and whole weights of every palette in a Core ML model, computed as the specification of the operator says."""
    from coremltools.converters.mil.frontend.milproto.load import load as load_mil

    spec = model.get_spec()
    program = load_mil(spec, spec.specificationVersion, model.weights_dir)
    operations = program.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    return [(int(np.log2(len(one.lut.val))), one.materialized_val_inference()) for one in operations]
