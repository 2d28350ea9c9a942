"""The evaluator itself: names, precisions, what float16 loses, and every way in which a package can be wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.errors import ConversionError, InputError, UnknownOperator
from edgeopt.mil.loading import LAYERS_KEY, MODEL, read_spec
from edgeopt.mil.operator import OPERATORS
from edgeopt.mil.precision import Watch
from tests.mil.packages import converted, run_mil

# coremltools, torch.export and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")


class Scaled(nn.Module):
    """Goes through 70,000, which float16 does not have, and back; and through 1e-9, which it does not have either."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.up, self.factor = nn.Linear(4, 4, bias=False), factor
        nn.init.eye_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.up(x) * self.factor
        return torch.tanh(hidden / self.factor)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    return converted(
        net, (torch.randn(1, 3, 8, 8),), tmp_path / "net.mlpackage", half=True, names=["image"], outputs=["scores"]
    )


def with_metadata(package: Path, text: str) -> None:
    spec = read_spec(package)
    spec.description.metadata.userDefined[LAYERS_KEY] = text
    (package / "Data" / MODEL).write_bytes(spec.SerializeToString())


def test_float32_gives_the_programs_mathematics_and_float16_rounds_it(package: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    exact = edgeopt.coreml.load(package, precision="float32")(image=image)["scores"]
    rounded = edgeopt.coreml.load(package)(image=image)["scores"]
    assert (exact.dtype.name, rounded.dtype.name) == ("float32", "float16")
    assert 0 < np.abs(exact - rounded).max() < 1e-2 * np.abs(exact).max()


def test_it_is_there_without_an_import_of_its_own() -> None:
    code = "import edgeopt, sys; assert 'torch' not in sys.modules; print(edgeopt.coreml.load.__name__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["load"]


def test_the_same_input_gives_the_same_output_and_stays_as_it_is(package: Path) -> None:
    model, image = edgeopt.coreml.load(package), np.full((1, 3, 8, 8), 0.1, np.float32)
    first = model(image=image)["scores"]
    np.testing.assert_array_equal(first, model(image=image)["scores"])
    assert (image == np.float32(0.1)).all()


@pytest.mark.parametrize(("factor", "word"), [(70_000.0, "become infinite"), (1e-9, "become zero")])
def test_what_float16_loses_is_reported_with_its_operator(factor: float, word: str, tmp_path: Path) -> None:
    x = torch.linspace(1, 2, 4)[None]
    package = converted(Scaled(factor), (x,), tmp_path / "lost.mlpackage", names=["x"], outputs=["y"], ios=17)
    assert edgeopt.coreml.load(package).examine(x=x.numpy())[1] == ()

    def build(x: Any) -> Any:
        up = mb.mul(x=x, y=np.float16(300.0 if factor > 1 else 1e-4), name="up")
        return mb.mul(x=up, y=np.float16(300.0 if factor > 1 else 1e-4), name="further")

    program = mb.program(input_specs=[mb.TensorSpec((1, 4), ct.converters.mil.mil.types.fp16)], opset_version=ct.target.iOS17)(
        build
    )
    out = tmp_path / "half.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True, package_dir=str(out),
               pass_pipeline=ct.PassPipeline.EMPTY)  # fmt: skip
    with_metadata(out, json.dumps({"head.scale": ["further"]}))
    _, lost = edgeopt.coreml.load(out).examine(x=x.numpy().astype(np.float16))
    assert [each.output for each in lost] == ["further"]
    assert lost[0].values == 4
    assert "mul 'further' of layer head.scale: 4 of 4 values" in lost[0].describe()
    assert word in lost[0].describe()
    assert edgeopt.coreml.load(out, precision="float32").examine(x=x.numpy().astype(np.float16))[1] == ()


HALVES = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
"""Every float16 number."""


@pytest.mark.parametrize("name", [name for name, each in OPERATORS.items() if each.half and set(each.parameters) == {"x"}])
def test_what_is_computed_in_float16_is_the_rounded_result_of_float32_for_every_number(name: str) -> None:
    call = OPERATORS[name].call
    torch.testing.assert_close(call(HALVES), call(HALVES.float()).half(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name, each in OPERATORS.items() if each.half and set(each.parameters) == {"x", "y"}])
def test_what_is_computed_of_two_float16_numbers_is_the_rounded_result_of_float32(name: str) -> None:
    call, others = OPERATORS[name].call, HALVES[torch.randperm(len(HALVES), generator=torch.Generator().manual_seed(0))]
    for shift in range(0, len(HALVES), 4096):
        x, y = HALVES, others.roll(shift)
        torch.testing.assert_close(call(x, y), call(x.float(), y.float()).half(), rtol=0, atol=0, equal_nan=True)


def test_a_call_and_an_examination_give_the_same(package: Path) -> None:
    model, image = edgeopt.coreml.load(package), np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(model(image=image)["scores"], model.examine(image=image)[0]["scores"])


def test_small_values_that_vanish_beside_great_ones_are_no_finding() -> None:
    watch = Watch()
    attention = torch.softmax(torch.tensor([[0.0, -20.0, -30.0, -25.0]]), -1)
    assert int((attention.half() == 0).sum()) == 3
    watch.saw("softmax", "attention", "", attention, attention.half())
    assert watch.lost() == ()


def test_an_unknown_operator_is_named_with_its_layer_and_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownOperator, match="random_normal") as caught:
        run_mil(lambda x: mb.add(x=x, y=mb.random_normal(shape=np.array([2], np.int32))), {"x": np.zeros(2, np.float32)})
    assert "conv_transpose" in caught.value.why
    assert "Mac" in caught.value.fix


@pytest.mark.parametrize("inputs", [{}, {"picture": 1}, {"image": 1, "other": 2}])
def test_wrong_names_are_refused_with_the_right_ones(package: Path, inputs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the program takes image"):
        edgeopt.coreml.load(package)(**inputs)


def test_a_wrong_shape_is_refused_with_both(package: Path) -> None:
    with pytest.raises(InputError, match=r"\[1, 3, 8, 8\], not \[3, 8, 8\]"):
        edgeopt.coreml.load(package)(image=np.zeros((3, 8, 8)))


def test_a_result_of_another_shape_than_declared_is_an_error_with_the_operator(package: Path) -> None:
    spec = read_spec(package)
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type == "conv":
            stride = next(o for o in function.block_specializations[function.opset].operations
                          if o.outputs[0].name == operation.inputs["strides"].arguments[0].name)  # fmt: skip
            stride.attributes["val"].immediateValue.tensor.ints.values[:] = [2, 2]
    (package / "Data" / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(ConversionError):
        edgeopt.coreml.load(package)(image=np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": null}'])
def test_metadata_that_makes_no_sense_is_no_error(package: Path, text: str) -> None:
    with_metadata(package, text)
    assert edgeopt.coreml.load(package)(image=np.zeros((1, 3, 8, 8)))["scores"].shape == (1, 5)


def test_what_is_no_package_is_refused_by_name(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="nothing is no Core ML package"):
        edgeopt.coreml.load(tmp_path / "nothing")
    shutil.rmtree(package / "Data" / "com.apple.CoreML" / "weights")
    with pytest.raises(ConversionError, match="cannot be read back"):
        edgeopt.coreml.load(package)
