"""Small transformers with random weights, from their configurations: nothing is fetched."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

# Its configurations take more keywords than their signatures tell.
families: Any = transformers

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


class Output(nn.Module):
    """A network reduced to the tensor that a product would use."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: Tensor) -> Tensor:
        states: Tensor = self.network(values).last_hidden_state
        return states


def bert(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    config = families.BertConfig(vocab_size=100, num_hidden_layers=layers, max_position_embeddings=32, **SIZES)
    return Output(families.BertModel(config, add_pooling_layer=False)).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = families.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=32, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return Output(families.GPT2Model(config)).eval()


def albert() -> nn.Module:
    """Three times the same layer."""
    torch.manual_seed(0)
    config = families.AlbertConfig(vocab_size=100, embedding_size=16, num_hidden_layers=3, max_position_embeddings=32, **SIZES)
    return Output(families.AlbertModel(config, add_pooling_layer=False)).eval()


def vit() -> nn.Module:
    torch.manual_seed(0)
    config = families.ViTConfig(num_hidden_layers=2, image_size=32, patch_size=8, **SIZES)
    return Output(families.ViTModel(config, add_pooling_layer=False)).eval()
