"""Expected bytes against those of real artifacts: a planner's figures have to hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.capture import capture
from edgeopt.capture.operator_kinds import WEIGHTED
from edgeopt.compress import Channels, Layers, LowRank
from edgeopt.compress.advice import overheads
from edgeopt.compress.advice.footprint import Footprint, artifact_bytes
from edgeopt.compress.technique import Context, Technique
from edgeopt.converters.coreml import recurrent
from edgeopt.converters.coreml.converter import CoremlConverter
from edgeopt.model.model import Model
from edgeopt.targets import loader
from tests.compress.networks import bert

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.GRU) -> None:
        super().__init__()
        self.layer, self.head = kind(12, 32, batch_first=True, bidirectional=True), nn.Linear(64, 9)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(x)[0].mean(1))
        return scores


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for weight in self.encoder.parameters():  # equal layers, as it makes them, would be stored once
            nn.init.normal_(weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.encoder(x)
        return states


def cnn() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 96, 3, bias=False), nn.BatchNorm2d(96), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Conv2d(96, 192, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "cnn": (cnn, (1, 3, 24, 24)),
    "gru": (Recurrent, (1, 6, 12)),
    "lstm": (lambda: Recurrent(nn.LSTM), (1, 6, 12)),
    "encoder": (Encoder, (1, 9, 64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_expected_bytes_are_those_of_the_artifact(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    net, example = make().eval(), (torch.randn(shape),)
    program = capture(Model(net, example)).program
    targets, data = ["arm-xnnpack", "x86-fbgemm", "apple-ane-fp16"], [(torch.randn(shape),) for _ in range(16)]
    bundle = edgeopt.export(net, example, targets=targets, calibration=data, out=tmp_path / "b")
    made = [result for result in bundle.manifest.results if result.artifact is not None]
    assert {result.format for result in made} == {"onnx", "tflite", "coreml"}
    for result in made:
        assert result.plan is not None
        assert result.artifact is not None
        kept = frozenset(one.layer for one in result.plan.kept_float if one.operator in WEIGHTED)
        profile = replace(loader.load(result.target), formats=(result.format,))
        # An attention's products are one layer here, of which a plan may leave the last alone in float.
        room = 0.2 if name == "encoder" else 0.05
        assert artifact_bytes(program, profile, kept) == pytest.approx(result.artifact.bytes, rel=room), result.target


@pytest.mark.parametrize(
    ("technique", "make", "shape"),
    [
        (Channels(), cnn, (1, 3, 24, 24)),
        (LowRank(rule="energy", share=0.5, min_parameters=1024), cnn, (1, 3, 24, 24)),
        (Layers(amount=0.5), Encoder, (1, 9, 64)),
        (Channels(), Encoder, (1, 9, 64)),
    ],
)
def test_a_compressed_model_s_bytes_are_computed_without_capturing_it(
    technique: Technique, make: Any, shape: tuple[int, ...]
) -> None:
    net, example, profile = make().eval(), (torch.randn(shape),), loader.load("arm-xnnpack")
    footprint = Footprint(net, capture(Model(net, example)).program, profile)
    module = technique.apply(net, Context(example_inputs=example)).module
    captured = artifact_bytes(capture(Model(module, example)).program, profile)
    assert footprint.bytes(module) == pytest.approx(captured, rel=0.02)
    assert captured < 0.9 * footprint.bytes(net)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, 150])
def test_the_expected_bytes_of_a_gru_in_core_ml_hold_for_any_length(steps: int, tmp_path: Path) -> None:
    """Without its twins: TFLite's, which is unrolled, takes a minute to make."""
    program = capture(Model(Recurrent().eval(), (torch.randn(1, steps, 12),))).program
    profile, saved, package = loader.load("apple-ane-fp16"), tmp_path / "program.pt2", tmp_path / "model.mlpackage"
    torch.export.save(program, saved)
    CoremlConverter().convert(saved, profile, package, io_float=False, output_names=("scores",))
    found = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert artifact_bytes(program, profile) == pytest.approx(found, rel=0.05)


def test_grus_are_written_out_up_to_as_many_steps_as_the_planner_thinks() -> None:
    assert overheads.LONGEST_WRITTEN_OUT == recurrent.STEPS_WRITTEN_OUT
    assert overheads.TURN == recurrent.STEPS_IN_A_LOOP


def test_a_byte_per_integer_weight_and_four_where_the_target_keeps_floats() -> None:
    program = capture(Model(nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)), (torch.randn(1, 512),))).program
    profile, weights = loader.load("arm-xnnpack"), 512 * 512
    integer, half_kept = artifact_bytes(program, profile), artifact_bytes(program, profile, frozenset({"0"}))
    assert 2 * weights < integer < 2.2 * weights
    assert half_kept - integer == pytest.approx(3 * weights, rel=0.05)
    assert artifact_bytes(program, loader.load("portable-fp32")) == pytest.approx(4 * 2 * weights, rel=0.05)
    assert artifact_bytes(program, loader.load("apple-ane-fp16")) == pytest.approx(2 * 2 * weights, rel=0.05)


def test_a_layer_kept_in_float_keeps_what_lies_in_it() -> None:
    program = capture(Model(nn.Sequential(nn.Sequential(nn.Linear(256, 256))), (torch.randn(1, 256),))).program
    profile = loader.load("x86-fbgemm")
    assert artifact_bytes(program, profile, frozenset({"0"})) == artifact_bytes(program, profile, frozenset({"0.0"}))


def test_an_embedding_is_stored_as_the_target_stores_it() -> None:
    inputs = (torch.randint(0, 100, (1, 16)),)
    program = capture(Model(bert(1), inputs)).program
    profile = loader.load("x86-fbgemm")
    without = tuple(kind for kind in profile.operators.integer if kind != "embedding")
    in_float = artifact_bytes(program, replace(profile, operators=replace(profile.operators, integer=without)))
    assert in_float - artifact_bytes(program, profile) == pytest.approx(3 * 100 * 32, rel=0.1)
