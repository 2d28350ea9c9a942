"""Calibration batches of any size become samples of the example's, none of whose rows is lost or stands beside another's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeopt.errors import CalibrationError, EdgeoptError, ForwardError, InputError
from edgeopt.model.rebatching import Rebatching
from edgeopt.model.signature import Signature, as_float32
from edgeopt.quantize.calibrate import Calibrated, calibrate, digest_of


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale


EXAMPLE = {"x": torch.ones(2, 3), "scale": torch.ones(2, 1)}


def rows(start: int, count: int) -> dict[str, Tensor]:
    number = torch.arange(start, start + count, dtype=torch.float32)[:, None]
    return {"x": number.repeat(1, 3), "scale": number}


def batches(sizes: list[int]) -> Iterator[dict[str, Tensor]]:
    start = 0
    for size in sizes:
        yield rows(start, size)
        start += size


def run(data: Any, example: Any = None) -> Calibrated:
    example = EXAMPLE if example is None else example
    signature, flat = Signature.of(Scaled.forward, example)
    module: GraphModule = torch.export.export(Scaled(), flat).module(check_guards=False)
    return calibrate({"dense": module}, signature, flat, data, keep=True)


@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 4))
def test_rows_come_in_order_and_all_inputs_together(sizes: list[int], size: int) -> None:
    signature, _ = Signature.of(Scaled.forward, {"x": torch.ones(size, 3), "scale": torch.ones(size, 1)})
    rebatching = Rebatching(signature)
    samples = [sample for batch in batches(sizes) for sample in rebatching.add(batch, "batch")]
    total = sum(sizes)
    assert len(samples) == total // size
    assert rebatching.left == total % size
    for index, (x, scale) in enumerate(samples):
        assert x.shape == (size, 3)
        torch.testing.assert_close(scale[:, 0], torch.arange(index * size, (index + 1) * size, dtype=torch.float32))
        torch.testing.assert_close(x[:, 0], scale[:, 0])


@pytest.mark.parametrize(
    ("sizes", "samples", "said"),
    [
        ([1] * 20, 10, "10 samples, batches joined along their first axis to the example's 2x3"),
        ([3, 3], 3, "3 samples, batches joined along their first axis to the example's 2x3"),
        ([2, 2, 1], 2, "2 samples; the last row, which fills none, left out"),
        (
            [3, 1, 5, 2],
            5,
            "5 samples, batches joined along their first axis to the example's 2x3; the last row, which fills none, left out",
        ),
        ([2, 2], 2, "2 samples"),
        ([4], 2, "2 samples"),
    ],
)
def test_what_was_joined_and_what_was_left_out_is_said(sizes: list[int], samples: int, said: str) -> None:
    found = run(list(batches(sizes)))
    assert found.samples == samples
    assert found.described.startswith(said)
    assert ("left out" in found.described) == ("left out" in said)
    assert ("joined" in found.described) == ("joined" in said)


def as_pairs(batch: dict[str, Tensor]) -> Any:
    return batch["x"], batch["scale"]


def with_labels(batch: dict[str, Tensor]) -> Any:
    return [batch["x"], batch["scale"], torch.zeros(len(batch["x"]), dtype=torch.int64)]


def as_numpy(batch: dict[str, Tensor]) -> Any:
    return {name: value.double().numpy() for name, value in reversed(batch.items())}


@pytest.mark.parametrize("form", [dict, as_pairs, with_labels, as_numpy])
def test_batches_of_any_form_and_size_are_the_same_samples_and_have_the_same_digest(form: Any) -> None:
    signature, _ = Signature.of(Scaled.forward, EXAMPLE)
    data = [form(batch) for batch in batches([1, 3, 1, 1])]
    plain = run(list(batches([2, 2, 2])))
    assert run(data).digest == digest_of(data, signature) == plain.digest
    assert run(data).statistics["dense"]["x"].maximum == plain.statistics["dense"]["x"].maximum == 3


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (
            [rows(0, 1)],
            CalibrationError,
            r"fills no sample\n  cause: 1 row came \(the last batch: 1x3, 1x1\), .* x=2x3:float32",
        ),
        ([rows(0, 0)], CalibrationError, "fills no sample\n  cause: 0 rows came"),
        ([], CalibrationError, "is empty\n  cause: it gave no batch"),
        ([(torch.ones(3), torch.ones(1))], InputError, r"x has shape \(3,\), expected \(2, 3\)\n.*give x\[None\]"),
        ([(torch.ones(1, 3), torch.ones(2, 1))], InputError, r"x has shape \(1, 3\), expected \(2, 3\)"),
        ([(torch.ones(1, 4), torch.ones(1, 1))], InputError, r"x has shape \(1, 4\), expected \(2, 3\)"),
        ([torch.ones(2, 3)], InputError, "has 1 tensor, the model takes 2: x=2x3:float32, scale=2x1:float32"),
    ],
)
def test_what_cannot_be_joined_is_told_with_what_came_and_what_is_wanted(
    data: Any, error: type[EdgeoptError], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(data)


def test_inputs_of_which_one_has_no_first_axis_are_taken_as_they_are() -> None:
    example = {"x": torch.ones(2, 3), "scale": torch.tensor(1.0)}
    assert run([example] * 3, example).samples == 3
    with pytest.raises(InputError, match=r"x has shape \(1, 3\), expected \(2, 3\)"):
        run([{"x": torch.ones(1, 3), "scale": torch.tensor(1.0)}], example)


def test_a_sample_does_not_keep_the_batch_alive_that_it_was_cut_from() -> None:
    found = run([rows(0, 4000)])
    kept = [value for sample in (*found.held_out, *found.kept) for value in sample]
    assert kept
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in kept)


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.relu(self.table(ids) * 2)


def test_a_sample_on_which_the_model_raises_is_named_with_the_layer() -> None:
    signature, flat = Signature.of(Looked.forward, torch.zeros(1, 2, dtype=torch.int64))
    module: GraphModule = torch.export.export(Looked().requires_grad_(False), flat).module(check_guards=False)
    data = [torch.tensor([[1, 2]])] * 3 + [torch.tensor([[1, 12]])] + [torch.tensor([[1, 2]])]
    with pytest.raises(ForwardError, match="raised on calibration sample 3 in layer table") as caught:
        calibrate({"dense": module}, signature, flat, data)
    assert "IndexError: index out of range" in caught.value.why


@pytest.mark.parametrize(("value", "wanted"), [(2**40, torch.int32), (300, torch.uint8), (2, torch.bool)])
def test_integers_that_the_model_s_type_has_not_are_refused(value: int, wanted: torch.dtype) -> None:
    signature, _ = Signature.of(lambda ids: ids, torch.zeros(1, 1).to(wanted))
    with pytest.raises(InputError, match=r"ids holds numbers that .* has not"):
        list(signature.split(torch.tensor([[value]]), "the data"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float32])
def test_examples_of_any_float_are_those_that_the_captured_program_takes(dtype: torch.dtype) -> None:
    given: dict[str, Any] = {"x": torch.rand(2, 3).to(dtype), "scale": [torch.ones(2, 1).long(), np.ones((2, 1))]}
    found = as_float32(given)
    assert found["x"].dtype == torch.float32
    torch.testing.assert_close(found["x"], given["x"].float())
    assert found["scale"][0] is given["scale"][0]
    assert found["scale"][1].dtype == torch.float32
