"""What the examples calibrate and evaluate with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt.model.references import resolve
from tests.examples.conftest import EXAMPLES, load

TRAIN = "import runpy, sys; runpy.run_path(sys.argv[1])['trained']()"


@pytest.mark.parametrize("example", ["mobilenet_v2", "digits", "minilm", "silero_vad"])
def test_calibration_batches_fit_the_example_inputs_and_differ_from_call_to_call(example: str) -> None:
    model: Any = load(example)
    shapes = [(tensor.shape, tensor.dtype) for tensor in model.example_inputs]
    first, second = (list(model.calibration()) for _ in range(2))
    assert len(first) == len(second) >= 50
    for batch, again in zip(first, second, strict=True):
        assert [(tensor.shape, tensor.dtype) for tensor in batch] == shapes
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_the_triplets_do_not_share_sentences_with_the_calibration() -> None:
    triplets: Any = resolve(f"{EXAMPLES / 'minilm'}.py:triplets")
    sentences: Any = resolve(f"{EXAMPLES / 'minilm'}.py:sentences")
    assert len(triplets()) >= 40
    assert all(len(triplet) == 3 for triplet in triplets())
    assert not {sentence for triplet in triplets() for sentence in triplet} & set(sentences())


@pytest.mark.slow
def test_training_the_digits_twice_gives_the_same_weights(tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        environment = os.environ | {"EDGEOPT_CACHE": str(tmp_path / name)}
        subprocess.run([sys.executable, "-c", TRAIN, str(EXAMPLES / "digits.py")], check=True, env=environment)
        (path,) = (tmp_path / name / "examples").iterdir()
        states.append(torch.load(path, weights_only=True))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
