"""A network as a chain: what is opened, what stays whole, what is refused; the chain computes what the network does."""

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from edgeopt.compress.early_exit.chain import chain
from edgeopt.errors import CompressionError
from examples.digits import DigitsNet


class Block(nn.Module):
    """A residual block; its ReLU is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.relu(image + self.two(self.relu(self.one(image))))
        return result


class Residual(nn.Module):
    """As torchvision's: a functional ReLU and flatten between modules."""

    def __init__(self, stages: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(stages)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(torch.relu(self.stem(image)))
        result: Tensor = self.fc(torch.flatten(self.pool(features), 1))
        return result


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(self.words(ids)).mean(1))
        return result


class Masked(Encoder):
    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(self.words(ids), src_key_padding_mask=ids == 0).mean(1))
        return result


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.two(self.one(values) * 2)
        return result


def same(module: nn.Module, example: Tensor) -> list[str]:
    """The chain's paths, once it computes the same on another input."""
    module.eval()
    links = chain(module, example)
    other = torch.randn_like(example) if example.is_floating_point() else example.flip(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*(link.module for link in links))(other), module(other), rtol=1e-4, atol=1e-5)
    return [link.path for link in links]


def test_containers_are_opened() -> None:
    paths = same(DigitsNet(), torch.rand(2, 1, 8, 8))
    assert paths[:4] == ["features.0", "features.1", "features.2", "features.3"]
    assert paths[-1] == "classifier.2"


def test_residual_blocks_stay_whole_and_steps_of_forward_become_layers() -> None:
    assert same(Residual(), torch.randn(2, 3, 16, 16)) == ["stem", "", "blocks.0", "blocks.1", "pool", "", "fc"]


def test_encoder_layers_follow_each_other() -> None:
    paths = same(Encoder(), torch.randint(1, 30, (2, 6)))
    assert paths == ["words", *(f"encoder.layers.{layer}" for layer in range(3)), "", "head"]


def test_the_mode_stays_and_no_hook_is_left() -> None:
    net = DigitsNet().train()
    chain(net, torch.rand(1, 1, 8, 8))
    assert all(module.training and not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("module", [Doubled(), nn.Linear(4, 4)])
def test_what_is_no_chain_is_refused(module: nn.Module) -> None:
    with pytest.raises(CompressionError, match="no chain of layers"):
        chain(module, torch.randn(2, 4))


def test_what_takes_two_tensors_is_refused() -> None:
    with pytest.raises(CompressionError, match="one input tensor"):
        chain(nn.Bilinear(4, 4, 2), (torch.randn(2, 4), torch.randn(2, 4)))


def test_an_encoder_that_hands_a_mask_on_is_refused() -> None:
    with pytest.raises(CompressionError, match="no chain of layers"):
        chain(Masked(), torch.randint(1, 30, (2, 6)))


def test_hugging_face_encoders_and_cnns_are_chains() -> None:
    """Their containers give several tensors, of which one goes on."""
    torch.manual_seed(0)
    transformer = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_labels": 5,
    }
    vit = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **transformer))
    bert = BertForSequenceClassification(BertConfig(vocab_size=50, **transformer))
    resnet = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4))
    assert [link.path for link in chain(vit, torch.randn(1, 3, 32, 32))][1:3] == ["vit.layers.0", "vit.layers.1"]
    assert [link.path for link in chain(bert, torch.randint(0, 50, (1, 8)))][1:3] == [
        "bert.encoder.layer.0",
        "bert.encoder.layer.1",
    ]
    assert "resnet.encoder.stages.1.layers.0" in [link.path for link in chain(resnet, torch.randn(1, 3, 32, 32))]
