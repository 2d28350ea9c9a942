"""The network as written out in the example is the one that its package ships."""

from importlib.metadata import distribution
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from edgeopt.model.references import resolve
from tests.examples.conftest import EXAMPLES, load


@pytest.fixture(scope="module")
def example() -> Any:
    """The example's functions by name."""
    return lambda name: resolve(f"{EXAMPLES / 'silero_vad'}.py:{name}")


def test_it_computes_what_the_packages_own_onnx_file_computes(example: Any) -> None:
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k_op15.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = example("network")()

    def shipped(chunk: Any, hidden: Any, cell: Any) -> Any:
        state = np.stack([hidden, cell])
        probability, after = session.run(None, {"input": chunk, "state": state, "sr": np.array(16_000)})
        with torch.no_grad():
            ours = network(*map(torch.from_numpy, (chunk, hidden, cell)))
        np.testing.assert_allclose(ours["probability"].numpy(), probability, atol=1e-5)
        np.testing.assert_allclose(ours["next_hidden"].numpy(), after[0], atol=1e-5)
        np.testing.assert_allclose(ours["next_cell"].numpy(), after[1], atol=1e-4)
        return probability, after[0], after[1]

    sound, labels = example("recording")(7)
    assert len(list(example("listen")(shipped, sound))) == len(labels)


def test_it_tells_the_synthesised_speech_from_the_background() -> None:
    model = load("silero_vad")
    module: Any = model.module
    assert model.evaluate is not None
    with torch.no_grad():
        numbers = model.evaluate(lambda *arrays: tuple(x.numpy() for x in module(*map(torch.from_numpy, arrays)).values()))
    assert numbers["accuracy"] > 0.9
