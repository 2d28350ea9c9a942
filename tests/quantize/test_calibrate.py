import math
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeopt.capture import capture
from edgeopt.errors import CalibrationError, EdgeoptError, InputError, NotFiniteError
from edgeopt.model.model import Model
from edgeopt.model.signature import Signature
from edgeopt.quantize.calibrate import Calibrated, calibrate, digest_of, outside
from edgeopt.quantize.held_out import MOST

EXAMPLE = torch.zeros(1, 3)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale


def graph(module: nn.Module, *example: Tensor) -> GraphModule:
    found: GraphModule = torch.export.export(module, example).module(check_guards=False)
    return found


def run(data: Any, **options: Any) -> Calibrated:
    signature, example = Signature.of(Double.forward, {"x": EXAMPLE})
    return calibrate({"dense": graph(Double(), EXAMPLE)}, signature, example, data, **options)


def sample(value: float) -> Tensor:
    return torch.full((1, 3), float(value))


def test_a_stream_is_never_held_in_memory() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def stream() -> Iterator[Tensor]:
        nonlocal most
        for index in range(4000):
            alive.add(value := sample(index))
            most = max(most, len(alive))
            yield value

    assert run(stream).samples == 4000
    assert most <= MOST + 8


def test_what_is_kept_for_later_is_bounded_too() -> None:
    few, many = run([sample(i) for i in range(20)], keep=True), run((sample(i) for i in range(2000)), keep=True)
    assert 0 < len(few.kept) <= len(many.kept) < 200


def test_every_tenth_sample_is_held_out_and_never_recorded() -> None:
    found = run([sample(1000 if index % 10 == 0 else index) for index in range(1, 41)])
    assert [float(held[0].max()) for held in found.held_out] == [1000] * 4
    assert found.statistics["dense"]["x"].maximum == 39
    assert found.statistics["dense"]["mul"].maximum == 78
    assert found.statistics["dense"]["x"].counts.sum() == 36 * 3


@pytest.mark.parametrize("count", [2, 5, 9])
def test_of_few_samples_the_last_is_held_out(count: int) -> None:
    found = run([sample(index) for index in range(1, count + 1)])
    assert [float(held[0].max()) for held in found.held_out] == [count]
    assert found.statistics["dense"]["x"].maximum == count - 1


def test_one_sample_is_recorded_and_the_proof_is_made_on_noise() -> None:
    found = run([sample(3)])
    assert found.statistics["dense"]["x"].maximum == 3
    assert found.real
    assert len(found.held_out) > 1
    assert found.held_out_of == 0


def test_at_most_so_many_samples_are_held_out() -> None:
    found = run(sample(index) for index in range(3000))
    assert (len(found.held_out), found.held_out_of) == (MOST, 300)


def test_without_data_the_example_is_recorded_and_the_result_is_not_real() -> None:
    found = run(None)
    assert not found.real
    assert "uncalibrated" in found.described
    assert found.statistics["dense"]["x"].maximum == 0
    assert run(None).digest == found.digest


@pytest.mark.parametrize(
    "batches",
    [
        [(sample(1), torch.tensor([7])), (sample(2), torch.tensor([8]))],
        [{"x": sample(1)}, {"x": sample(2)}],
        [sample(1).numpy(), sample(2).numpy()],
        [[sample(1)], [sample(2)]],
        [torch.cat([sample(1), sample(2)])],
        [(torch.cat([sample(1), sample(2)]), torch.tensor([7, 8]))],
        [sample(1).double(), sample(2).half()],
    ],
    ids=["labels", "names", "numpy", "lists", "batch", "batch and labels", "precision"],
)
def test_batches_of_any_form_are_the_same_samples(batches: Any) -> None:
    plain, found = run([sample(1), sample(2)]), run(batches)
    assert found.samples == 2
    assert found.digest == plain.digest
    assert found.statistics["dense"]["x"].maximum == 1


def test_a_data_loader_with_labels_is_taken_and_a_remainder_left_out() -> None:
    data = torch.utils.data.TensorDataset(torch.rand(10, 3), torch.arange(10))
    signature, example = Signature.of(Double.forward, {"x": torch.zeros(4, 3)})
    module = graph(Double(), torch.zeros(4, 3))
    found = calibrate({"dense": module}, signature, example, torch.utils.data.DataLoader(data, batch_size=9))
    assert found.samples == 2


def test_several_inputs_are_split_together_in_the_order_of_the_signature() -> None:
    example = {"x": torch.ones(2, 3), "scale": torch.ones(2, 1)}
    signature, flat = Signature.of(Scaled.forward, example)
    module = graph(Scaled(), *flat)
    batch = {"scale": torch.arange(4.0)[:, None], "x": torch.arange(12.0).reshape(4, 3)}
    found = calibrate({"dense": module}, signature, flat, [batch, example])
    assert found.samples == 3
    assert found.statistics["dense"]["scale"].maximum == 3
    assert found.statistics["dense"]["x"].maximum == 11
    assert found.statistics["dense"]["scale"].minimum == 0


def test_the_digest_is_the_data_s_and_can_be_had_without_running() -> None:
    data = [sample(index) for index in range(12)]
    signature, _ = Signature.of(Double.forward, {"x": EXAMPLE})
    assert run(data).digest == digest_of(data, signature) == run(iter(data)).digest
    assert run([*data[:-1], sample(99)]).digest != run(data).digest


def exiting() -> Iterator[Tensor]:
    yield sample(1)
    sys.exit(0)


def exiting_at_once() -> Iterator[Tensor]:
    sys.exit(0)


def with_an_argument(folder: str) -> list[Tensor]:
    raise AssertionError(folder)


def raising() -> Iterator[Tensor]:
    yield sample(1)
    raise OSError("the disk has gone")


def not_iterable() -> Any:
    return 3


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ([], CalibrationError, "is empty"),
        (lambda: iter(()), CalibrationError, "is empty"),
        (raising, CalibrationError, "raised after 1 samples\n  cause: OSError: the disk has gone .*test_calibrate.py, line"),
        (exiting, CalibrationError, "raised after 1 samples\n  cause: SystemExit: 0 .*test_calibrate.py, line"),
        (exiting_at_once, CalibrationError, "cannot be read\n  cause: SystemExit: 0"),
        (with_an_argument, CalibrationError, "missing 1 required positional argument.*\n.*takes no arguments"),
        (not_iterable, CalibrationError, "cannot be read"),
        ([sample(1), sample(math.nan)], NotFiniteError, "calibration sample 1 holds NaN or infinity in x"),
        ([sample(math.inf)], NotFiniteError, "calibration sample 0"),
        ([torch.ones(1, 4)], InputError, r"calibration sample 0: input x has shape \(1, 4\), expected \(1, 3\)"),
        ([sample(1), torch.ones(3)], InputError, r"calibration sample 1: input x has shape \(3,\).*\n.*give x\[None\]"),
        ([np.array([["a", "b", "c"]])], InputError, "input x is a ndarray of <U1, not a dense tensor"),
        ([torch.ones(1, 3, dtype=torch.int64)], InputError, "is int64, expected float32"),
        ([sample(1).to_sparse()], InputError, "input x is a sparse_coo tensor, not a dense tensor"),
        (["text"], InputError, "input x is a str, not a dense tensor"),
        ([{"x": sample(1), "y": sample(2)}], InputError, "has the inputs x, y, the model takes x=1x3:float32"),
        ([()], InputError, "has 0 tensors"),
    ],
)
def test_data_that_cannot_be_used_is_told(data: Any, error: type[EdgeoptError], said: str) -> None:
    with pytest.raises(error, match=said):
        run(data)


def test_names_that_are_not_the_model_s_are_told() -> None:
    with pytest.raises(InputError, match="image"):
        run([{"image": sample(1)}])


def test_what_a_first_reading_would_take_away_has_no_digest() -> None:
    signature, _ = Signature.of(Double.forward, {"x": EXAMPLE})
    data, calls = [sample(1)], 0

    def loaded() -> list[Tensor]:
        nonlocal calls
        calls += 1
        return data

    generator = iter(data)
    assert digest_of(generator, signature) is None
    assert digest_of(lambda: generator, signature) is None
    assert run(generator).samples == 1, "and it has not been read"
    digests = {digest_of(given, signature) for given in (data, loaded, lambda: iter(data), lambda: (one for one in data))}
    assert digests == {run(data).digest}
    assert calls == 1, "loading may take long"


def test_progress_counts_samples() -> None:
    seen: list[int] = []
    run([sample(1)] * 3, progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("seen", "example", "warned"), [(0.0, 1.0, 1), (255.0, 1.0, 1), (1.0, 3.0, 0), (1.0, 0.0, 0), (9.0, 1.0, 0)]
)
@pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
def test_an_example_of_another_scale_than_the_calibration_data_is_a_warning(seen: float, example: float, warned: int) -> None:
    captured = capture(Model(Double(), (sample(example),)))
    module = captured.program.module(check_guards=False)
    found = calibrate({"dense": module}, captured.signature, captured.example, [sample(seen)] * 3)
    assert len(list(outside(found, captured))) == warned


def test_each_run_of_the_model_takes_a_turn() -> None:
    turns: list[str] = []

    @contextmanager
    def turn() -> Iterator[None]:
        turns.append("taken")
        yield
        turns.append("given back")

    run([sample(number) for number in range(20)], turn=turn)
    assert turns == ["taken", "given back"] * 18
