"""Who speaks? A bidirectional GRU on JapaneseVowels (Kudo et al., 1999): 12 numbers per step, 7 to 29 steps, nine speakers.

    scripts/datasets path                                  # fetches the data, once
    edgeopt export examples/japanese_vowels.py:model

The network is trained here on first use (seconds); its weights are kept in the user's cache folder.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeopt

Predict = Callable[..., tuple[NDArray[np.float32], ...]]
STEPS, FEATURES, SPEAKERS = 29, 12, 9
EPOCHS, BATCH, SEED = 40, 16, 0


class VowelNet(nn.Module):
    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, SPEAKERS)

    def forward(self, utterance: Tensor) -> Tensor:
        """float32 [N, 29, 12] -> scores [N, 9]: the mean over all steps decides."""
        scores: Tensor = self.head(self.gru(utterance)[0].mean(1))
        return scores


def data_folder() -> Path:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EDGEOPT_DATA") or cache_home / "edgeopt" / "data") / "japanese-vowels"


@cache
def data(split: str) -> tuple[Tensor, Tensor]:
    """Utterances and speakers of ``split``: ``TRAIN`` (270) or ``TEST`` (370).

    Every feature is scaled to mean 0 and deviation 1 over the training utterances, and every utterance stretched to 29 steps.
    Of raw values with zeros behind the end the same network learns less: 93% right instead of 97% (mean of three seeds).
    """
    series, speakers = read(split)
    steps = torch.cat(series if split == "TRAIN" else read("TRAIN")[0])
    mean, deviation = steps.mean(0), steps.std(0)
    return torch.stack([stretched((one - mean) / deviation) for one in series]), speakers


def read(split: str) -> tuple[list[Tensor], Tensor]:
    """The utterances as they were recorded, float32 [steps, 12] each, and their speakers."""
    path = data_folder() / f"JapaneseVowels_{split}.ts"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run scripts/datasets path")
    lines = path.read_text(encoding="utf-8").partition("@data")[2].split()
    series = []
    for line in lines:
        features = [np.array(values.split(","), np.float32) for values in line.split(":")[:-1]]
        series.append(torch.from_numpy(np.stack(features, 1)))
    return series, torch.tensor([int(line.rpartition(":")[2]) - 1 for line in lines])


def stretched(utterance: Tensor) -> Tensor:
    """[steps, 12] -> [29, 12], linear between steps."""
    return nn.functional.interpolate(utterance.T[None], STEPS, mode="linear", align_corners=True)[0].T.contiguous()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    utterances, speakers = data("TRAIN")
    for chosen in torch.randperm(len(utterances)).split(BATCH):
        yield utterances[chosen], speakers[chosen]


def train_step(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    utterances, speakers = batch
    return nn.functional.cross_entropy(net(utterances), speakers)


def train(net: nn.Module) -> None:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(data("TRAIN")[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in batches():
            optimizer.zero_grad()
            torch.autograd.backward(train_step(net, batch))
            optimizer.step()
            schedule.step()


def cache_file() -> Path:
    """Where the weights lie; another network, training or torch gets a file of its own."""
    code = "".join(inspect.getsource(part) for part in (VowelNet, read, stretched, data, batches, train_step, train))
    recipe = hashlib.sha256(f"{code}{(EPOCHS, BATCH, SEED, torch.__version__)}".encode()).hexdigest()
    root = Path(os.environ.get("EDGEOPT_CACHE") or Path.home() / ".cache" / "edgeopt")
    return root / "examples" / f"japanese-vowels-{recipe[:16]}.pt"


def trained() -> VowelNet:
    torch.manual_seed(SEED)
    net, path = VowelNet(), cache_file()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        torch.save(net.state_dict(), unfinished)
        unfinished.replace(path)  # whoever reads the file finds all of it or none
    return net.eval()


def calibration() -> Iterator[tuple[Tensor]]:
    for utterance in data("TRAIN")[0][:100]:
        yield (utterance[None],)


def evaluate(predict: Predict) -> dict[str, float]:
    """Accuracy on the 370 test utterances."""
    utterances, speakers = data("TEST")
    return {"accuracy": float((predict(utterances.numpy())[0].argmax(1) == speakers.numpy()).mean())}


def model() -> edgeopt.Model:
    example = (data("TEST")[0][:1],)
    return edgeopt.Model(trained(), example, calibration=calibration, evaluate=evaluate, name="japanese_vowels")
