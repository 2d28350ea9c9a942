"""Small transformers with random weights, always the same ones: Hugging Face's families and torch's own encoder."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

HIDDEN, HEADS, LAYERS = 32, 4, 3
COMMON = {
    "vocab_size": 50, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 48,
    "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
}  # fmt: skip
IDS = torch.randint(1, 50, (2, 10), generator=torch.Generator().manual_seed(0))
Made = tuple[Any, dict[str, torch.Tensor]]

hf.logging.disable_progress_bar()


def _made(kind: Any, config: Any, **inputs: torch.Tensor) -> Made:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights of 0.02 make every layer nearly nothing
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model, inputs


def bert(**settings: Any) -> Any:
    return _made(hf.BertModel, hf.BertConfig(**COMMON | settings))[0]


def llama(key_value_heads: int = 2) -> Made:
    config = hf.LlamaConfig(**COMMON, num_key_value_heads=key_value_heads)
    return _made(hf.LlamaForCausalLM, config, input_ids=IDS)


def gpt2() -> Made:
    config = hf.GPT2Config(vocab_size=50, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, bos_token_id=0, eos_token_id=0)
    return _made(hf.GPT2LMHeadModel, config, input_ids=IDS)


def vit() -> Made:
    config = hf.ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
    )
    return _made(hf.ViTForImageClassification, config, pixel_values=torch.randn(2, 3, 16, 16))


def distilbert() -> Made:
    config = hf.DistilBertConfig(vocab_size=50, dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=48)
    return _made(hf.DistilBertModel, config, input_ids=IDS)


def bart() -> Made:
    config = hf.BartConfig(
        vocab_size=50, d_model=HIDDEN, encoder_layers=2, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, decoder_start_token_id=2,
        bos_token_id=0, eos_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    return _made(hf.BartModel, config, input_ids=IDS, decoder_input_ids=IDS)


def t5() -> Made:
    config = hf.T5Config(
        vocab_size=50, d_model=HIDDEN, num_layers=2, num_heads=HEADS, d_kv=8, d_ff=48, decoder_start_token_id=0
    )
    return _made(hf.T5Model, config, input_ids=IDS, decoder_input_ids=IDS)


def plain_encoder(batch_first: bool = True, layers: int = 2) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, 48, batch_first=batch_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=batch_first).eval()


FAMILIES: dict[str, Callable[[], Made]] = {
    "bert": lambda: (bert(), {"input_ids": IDS}),
    "roberta": lambda: _made(hf.RobertaForSequenceClassification, hf.RobertaConfig(**COMMON), input_ids=IDS),
    "distilbert": distilbert,
    "vit": vit,
    "gpt2": gpt2,
    "gpt-neox": lambda: _made(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**COMMON), input_ids=IDS),
    "llama": llama,
    "llama, one key-value head": lambda: llama(1),
    "bart": bart,
}


class Block(nn.Module):
    """A residual block as in torchvision's ResNet; with another width or a stride, its shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        plain = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ResidualNet(nn.Module):
    """Two stages of three blocks behind a stem, then a flattened map into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(
            nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1)),
            nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1)),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.stages(self.stem(image)))
        return scores
