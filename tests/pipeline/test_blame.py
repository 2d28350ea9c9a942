"""What is blamed is what an export makes: planted faults are named, in bounded time, with every reason."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeopt
from edgeopt.core import from_json, to_json
from edgeopt.diagnosis.findings import Blame
from edgeopt.errors import CalibrationError, EvaluationError, NotApplicable
from tests.diagnosis.networks import Chain, Detector, outlier_channel, stretched_weight

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def rows(count: int = 30) -> list[tuple[torch.Tensor, ...]]:
    torch.manual_seed(1)
    return [(torch.randn(4, 16),) for _ in range(count)]


def images(count: int = 30) -> list[tuple[torch.Tensor, ...]]:
    torch.manual_seed(1)
    return [(torch.randn(1, 3, 32, 32),) for _ in range(count)]


@pytest.mark.parametrize(
    ("plant", "layer", "remedy"),
    [
        (stretched_weight, "layers.2", "the weights of input channel 3"),
        (outlier_channel, "layers.2", "channel 5 alone needs the range"),
    ],
)
def test_the_planted_layer_is_first_with_a_remedy_that_fits(plant: Callable[[int], Chain], layer: str, remedy: str) -> None:
    torch.manual_seed(0)
    found = edgeopt.blame(plant(2), rows()[0], target="x86-fbgemm", calibration=rows())
    assert found.layers[0].layer == layer and remedy in found.layers[0].remedy
    assert "networks.py, line" in found.layers[0].line
    assert found.samples == 3 and found.calibrated and found.unmeasured == 0
    assert from_json(Blame, to_json(found)) == found


@pytest.mark.parametrize("target", ["arm-xnnpack", "x86-fbgemm", "apple-ane", "nvidia-sparse24"])
def test_boxes_and_scores_in_one_tensor_are_named_first_where_edgeopt_leaves_them_in_float(target: str) -> None:
    torch.manual_seed(0)
    found = edgeopt.blame(Detector(), images()[0], target=target, calibration=images())
    worst = found.layers[0]
    assert worst.operator == "concat" and "torch.cat(" in worst.line
    assert worst.in_float and "parts as outputs of their own" in worst.remedy
    assert worst.alone is not None and worst.alone < 10 and "channels" in worst.part.replace("channel ", "channels ")
    assert worst.share is None and worst.own is None


def test_the_same_is_prepared_as_an_export_prepares_it() -> None:
    """Equalized, rounded against data, and as far from the model as the artifact is."""

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
            )

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layers(image)

    torch.manual_seed(0)
    found = edgeopt.blame(Convolutions(), images()[0], target="x86-fbgemm", calibration=images())
    assert {decision.subject for decision in found.done} == {"activations", "errors of activations", "weights"}
    assert {done for layer in found.layers for done in layer.done} == {"equalized", "rounded against data"}
    assert 15 < found.whole < 60 and sum(layer.share or 0 for layer in found.layers) == pytest.approx(1)


def test_without_calibration_it_works_and_says_so() -> None:
    torch.manual_seed(0)
    found = edgeopt.blame(stretched_weight(1), rows()[0], target="x86-fbgemm")
    assert found.layers[0].layer == "layers.1" and not found.calibrated
    assert any(note.startswith("UNCALIBRATED") for note in found.notes)
    assert "--calibration" in found.layers[0].remedy


def test_no_time_is_no_failure_and_is_said() -> None:
    torch.manual_seed(0)
    found = edgeopt.blame(stretched_weight(1), rows()[0], target="x86-fbgemm", calibration=rows(300), seconds=0.001)
    assert found.layers[0].layer == "layers.1" and found.unmeasured > 0
    assert any("were read in time" in note for note in found.notes) and any("not measured in full" in n for n in found.notes)


def test_data_that_is_slow_ends_with_the_time() -> None:
    def slow() -> object:
        for batch in rows(1000):
            time.sleep(0.05)
            yield batch

    torch.manual_seed(0)
    begun = time.monotonic()
    found = edgeopt.blame(stretched_weight(1), rows()[0], target="x86-fbgemm", calibration=slow, seconds=6)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 30  # 50 s of data, and a machine that is not idle
    assert found.layers[0].layer == "layers.1"


def test_the_users_number_is_told_for_floats_integers_and_without_the_worst() -> None:
    model = stretched_weight(1, 200.0).eval()
    inputs = torch.cat([row for (row,) in rows()])
    with torch.no_grad():
        wanted = model(inputs).argmax(1).numpy()

    def evaluate(predict: Callable[..., tuple[np.ndarray, ...]]) -> dict[str, float]:
        return {"top1": float((predict(inputs.numpy())[0].argmax(1) == wanted).mean())}

    found = edgeopt.blame(model, rows()[0], target="x86-fbgemm", calibration=rows(), evaluate=evaluate).scores
    assert found is not None and (found.metric, found.model) == ("top1", 1.0) and "layers.1" in found.worst
    assert found.integers is not None and found.without_worst is not None
    assert found.integers + 0.1 < found.without_worst <= 1.0


def test_an_evaluate_without_end_does_not_hold_it_up_and_one_that_raises_is_told() -> None:
    def endless(predict: Callable[..., tuple[np.ndarray, ...]]) -> dict[str, float]:
        while True:
            predict(rows()[0][0].numpy())

    def raising(predict: object) -> dict[str, float]:
        raise ValueError("no photos")

    found = edgeopt.blame(Chain(), rows()[0], target="x86-fbgemm", calibration=rows(), evaluate=endless, seconds=4)
    assert found.scores is None and any("evaluate did not end" in note for note in found.notes)
    with pytest.raises(EvaluationError, match="no photos"):
        edgeopt.blame(Chain(), rows()[0], target="x86-fbgemm", calibration=rows(), evaluate=raising)


@pytest.mark.parametrize("target", ["portable-fp32", "apple-ane-fp16", "apple-ane-palettized", "apple-ane-w8"])
def test_targets_without_integers_are_refused_with_the_reason(target: str) -> None:
    with pytest.raises(NotApplicable, match="nothing is computed in 8 bits") as refused:
        edgeopt.blame(Chain(), rows()[0], target=target)
    assert "arm-xnnpack" in refused.value.fix


def test_a_model_without_a_layer_in_integers_is_refused_as_an_export_refuses_it() -> None:
    with pytest.raises(NotApplicable, match="no layer of this model can be computed in integers"):
        edgeopt.blame(nn.ReLU(), rows()[0], target="x86-fbgemm")


def test_data_that_cannot_be_used_is_told_as_in_an_export() -> None:
    def raising() -> object:
        raise OSError("no disk")

    with pytest.raises(CalibrationError, match="no disk"):
        edgeopt.blame(Chain(), rows()[0], target="x86-fbgemm", calibration=raising)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="empty"):
        edgeopt.blame(Chain(), rows()[0], target="x86-fbgemm", calibration=[])


def test_one_output_given_twice_and_a_number_that_none_gives_are_no_trouble() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = Chain()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.chain(x)
            return y, y, y.argmax(-1)

    def evaluate(predict: Callable[..., tuple[np.ndarray, ...]]) -> dict[str, float]:
        return {"outputs": float(len(predict(rows()[0][0].numpy())))}

    found = edgeopt.blame(Twice(), rows()[0], target="x86-fbgemm", calibration=rows(), evaluate=evaluate)
    assert found.scores is not None and found.scores.integers == 3.0


@pytest.mark.slow
def test_an_artifact_that_is_far_from_its_model_names_the_worst_layers_and_the_command(tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = ["arm-ort", "apple-ane"]
    bundle = edgeopt.export(
        stretched_weight(2, 2000.0), rows()[0], targets=targets, calibration=rows(), out=tmp_path / "out", use_cache=False
    )
    said = {result.target: " ".join((result.reason, *result.warnings)) for result in bundle.manifest.results}
    for target in targets:  # one fails, the other gives way to floats
        worst, _, command = said[target].partition("most is lost in ")[2].partition(": ")
        assert worst.split(", ")[0] == "layers.2" and len(worst.split(", ")) == 3
        assert command.startswith(f"edgeopt blame MODEL --target {target} says why")
    assert "edgeopt blame" not in said["portable-fp32"]
