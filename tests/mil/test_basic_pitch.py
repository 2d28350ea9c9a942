"""A package that this project did not make: basic-pitch's, against the same network as ONNX and TFLite (scripts/datasets)."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeopt.coreml
from edgeopt.mil.precision import Precision
from examples.fashion_mnist import data_folder

FOLDER = data_folder().parent / "basic-pitch"
pytestmark = [
    pytest.mark.filterwarnings("default"),  # coremltools warns about other packages' versions
    pytest.mark.skipif(
        not FOLDER.is_dir() and not os.environ.get("EDGEOPT_REQUIRE_DATA"), reason="scripts/datasets path fetches basic-pitch"
    ),
]
AUDIO = (1, 43844, 1)
"""Two seconds at 22,050 Hz."""


def audio(seed: int) -> NDArray[np.float32]:
    """Notes: a few decaying tones and some noise."""
    random, time = np.random.default_rng(seed), np.arange(AUDIO[1]) / 22_050
    tones = [np.sin(2 * np.pi * pitch * time) * np.exp(-3 * time) for pitch in random.uniform(80, 1200, 4)]
    sound = np.sum(tones, 0) / 4 + 0.01 * random.normal(size=AUDIO[1])
    return np.asarray(sound, np.float32).reshape(AUDIO)


def onnx_outputs(sound: NDArray[np.float32]) -> list[NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(FOLDER / "nmp.onnx", providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, {session.get_inputs()[0].name: sound})]


def tflite_outputs(sound: NDArray[np.float32]) -> list[NDArray[Any]]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(FOLDER / "nmp.tflite")).get_signature_runner()
    (name,) = runner.get_input_details()
    return list(runner(**{name: sound}).values())


@pytest.mark.parametrize("twin", [onnx_outputs, tflite_outputs])
@pytest.mark.parametrize(("precision", "room"), [("float32", 1e-3), ("float16", 2e-2)])
def test_the_package_gives_what_its_twins_give(precision: Precision, room: float, twin: Callable[..., Any]) -> None:
    """Its weights are float16, theirs float32: without any rounding of activations there is a difference of 3e-4."""
    model = edgeopt.coreml.load(FOLDER / "nmp.mlpackage", precision=precision)
    (name,) = [spec.name for spec in model.inputs]
    for seed in range(2):
        sound = audio(seed)
        found = sorted(model(**{name: sound}).values(), key=lambda array: (array.shape, float(array.sum())))
        wanted = sorted(twin(sound), key=lambda array: (array.shape, float(array.sum())))
        assert [array.shape for array in found] == [array.shape for array in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert other.max() > 0.1  # it hears something
            np.testing.assert_allclose(one, other, rtol=0, atol=room)
