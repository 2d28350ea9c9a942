"""What goes in and out of a package: images, classes, shapes that vary, optional inputs, and states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.coreml import Evaluator
from edgeopt.errors import InputError

pytestmark = pytest.mark.filterwarnings("default")
RANDOM = np.random.default_rng(0)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).softmax(-1)


class Collected(nn.Module):
    """Adds what it is given to what it has been given before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        return self.total * 2


Made = Callable[..., Evaluator]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(module: nn.Module, example: tuple[int, ...], ios: Any = ct.target.iOS17, **settings: Any) -> Evaluator:
        out = tmp_path / "model.mlpackage"
        traced = torch.jit.trace(module.eval(), torch.zeros(example), check_trace=False)  # type: ignore[no-untyped-call]
        ct.convert(traced, convert_to="mlprogram", minimum_deployment_target=ios, skip_model_load=True, package_dir=str(out),
                   compute_precision=ct.precision.FLOAT32 if ios != ct.target.iOS18 else None, **settings)  # fmt: skip
        return edgeopt.coreml.load(out)

    return make


def test_an_image_is_pixels_and_a_classifier_gives_a_label_and_the_probabilities_of_its_classes(made: Made) -> None:
    image = ct.ImageType(name="image", shape=(1, 3, 4, 6), scale=1 / 255, bias=[0.1, 0.2, 0.3], color_layout="RGB")
    model = made(Means(), (1, 3, 4, 6), inputs=[image], classifier_config=ct.ClassifierConfig(["cat", "dog", "elk"]))
    pixels = RANDOM.integers(0, 256, (1, 3, 4, 6))
    pixels[:, 1] //= 4
    assert (model.inputs[0].shape, model.inputs[0].dtype) == ((1, 3, 4, 6), "uint8")
    found = model(image=pixels)
    scaled = pixels / 255 + np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    want = torch.from_numpy(scaled).mean((2, 3)).softmax(-1)[0]
    assert model.classes == ("cat", "dog", "elk")
    np.testing.assert_allclose(found["classLabel_probs"], want, rtol=1e-5)
    assert found["classLabel"].item() == model.classes[int(want.argmax())] != "dog"


def test_what_is_no_pixel_is_refused(made: Made) -> None:
    model = made(Doubled(), (1, 3, 4, 6), inputs=[ct.ImageType(name="image", shape=(1, 3, 4, 6))])
    for value in (0.5, 256, -1.0, np.nan):
        with pytest.raises(InputError, match="no integers from 0 to 255"):
            model(image=np.full((1, 3, 4, 6), value))


def test_an_image_that_comes_out_is_rounded_to_pixels(made: Made) -> None:
    sizes = ct.Shape((1, 3, ct.RangeDim(4, 16, default=8), ct.RangeDim(4, 32, default=8)))
    model = made(Doubled(), (1, 3, 8, 8), inputs=[ct.ImageType(name="image", shape=sizes, scale=0.3)],
                 outputs=[ct.ImageType(name="out")])  # fmt: skip
    pixels = RANDOM.integers(0, 256, (1, 3, 5, 32))
    found = model(image=pixels)["out"]
    assert found.dtype == np.uint8
    assert found.max() == np.rint(0.6 * pixels.max())
    np.testing.assert_allclose(found, 0.6 * pixels, atol=0.51)
    with pytest.raises(InputError, match=r"the shape \[1, 3, 4 to 16, 4 to 32\], not \[1, 3, 17, 8\]"):
        model(image=pixels.repeat(4, axis=2)[:, :, :17, :8])


@pytest.mark.slow
def test_classes_may_be_numbers(made: Made) -> None:
    model = made(Means(), (1, 3, 2, 2), inputs=[ct.TensorType(name="x", shape=(1, 3, 2, 2))],
                 classifier_config=ct.ClassifierConfig([7, 8, 9]))  # fmt: skip
    x = np.zeros((1, 3, 2, 2))
    x[:, 2] = 5
    found = model(x=x)["classLabel"]
    assert found.dtype == np.int64
    assert found == model.classes[2] == 9


def test_any_allowed_shape_is_evaluated_and_another_is_refused(made: Made) -> None:
    ranged = made(Means(), (1, 3, 8, 8), inputs=[ct.TensorType(name="x", shape=(1, 3, ct.RangeDim(4, 16, default=8), 8))])
    assert ranged.inputs[0].shape == (1, 3, 8, 8)
    for size in (4, 9, 16):
        x = RANDOM.normal(size=(1, 3, size, 8)).astype(np.float32)
        (found,) = ranged(x=x).values()
        np.testing.assert_allclose(found, torch.from_numpy(x).mean((2, 3)).softmax(-1), rtol=1e-4)
    with pytest.raises(InputError, match=r"\[1, 3, 4 to 16, 8\], not \[1, 3, 3, 8\]"):
        ranged(x=x[:, :, :3])


def test_enumerated_shapes_are_those_and_no_others(made: Made) -> None:
    shapes = ct.EnumeratedShapes([(1, 3, 8, 8), (1, 3, 4, 6)])
    model = made(Doubled(), (1, 3, 8, 8), inputs=[ct.TensorType(name="x", shape=shapes)])
    for shape in ((1, 3, 8, 8), (1, 3, 4, 6)):
        (found,) = model(x=np.ones(shape)).values()
        assert found.shape == shape
    with pytest.raises(InputError, match=r"\[1, 3, 8, 8\] or \[1, 3, 4, 6\], not \[1, 3, 8, 6\]"):
        model(x=np.ones((1, 3, 8, 6)))


@pytest.mark.slow
def test_an_optional_input_has_its_default(made: Made) -> None:
    model = made(Doubled(), (2, 3), inputs=[ct.TensorType(name="x", shape=(2, 3), default_value=np.full((2, 3), 0.5))])
    assert (next(iter(model().values())) == 1).all()
    assert (next(iter(model(x=np.ones((2, 3))).values())) == 2).all()


def test_a_state_lasts_from_call_to_call_until_it_is_reset(made: Made) -> None:
    state = ct.StateType(wrapped_type=ct.TensorType(shape=(3,)), name="total")
    model = made(Collected(), (3,), ct.target.iOS18, inputs=[ct.TensorType(name="x", shape=(3,))], states=[state],
                 outputs=[ct.TensorType(name="y")])  # fmt: skip
    x = np.array([1.0, 2.0, 3.0])
    for count in (1, 2, 3):
        np.testing.assert_allclose(model(x=x)["y"], 2 * count * x)
    model.reset()
    np.testing.assert_allclose(model(x=x)["y"], 2 * x)
