"""A CNN on Fashion-MNIST (Xiao et al., 2017), with what compression asks of its user: train_step, batches and evaluate.

    scripts/datasets path                                    # fetches the data, once
    edgeopt export examples/fashion_mnist.py:model
    edgeopt compress --recipe examples/fashion_mnist.toml    # distils, prunes and exports it

The network is trained here on first use (some minutes); its weights are kept in the user's cache folder.
"""

import gzip
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
CLASSES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
EPOCHS, BATCH, SEED = 6, 128, 0
TRAIN_ON = int(os.environ.get("EDGEOPT_EXAMPLE_TRAIN", "60000"))  # images per epoch; tests lower both
TEST_ON = int(os.environ.get("EDGEOPT_EXAMPLE_TEST", "10000"))


class FashionNet(nn.Module):
    """Stages of two convolutions, each with batch norm and ReLU, the first with stride 2; ``widths`` are their channels."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width in widths:
            for stride in (2, 1):
                layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, len(CLASSES)))

    def forward(self, image: Tensor) -> Tensor:
        """float32 [N, 1, 28, 28] in 0..1 -> scores [N, 10]."""
        scores: Tensor = self.classifier(self.features(image))
        return scores


def data_folder() -> Path:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EDGEOPT_DATA") or cache_home / "edgeopt" / "data") / "fashion-mnist"


@cache
def data(split: str) -> tuple[Tensor, Tensor]:
    """Images, float32 [N, 1, 28, 28] in 0..1, and labels of ``split``: ``train`` (60,000) or ``t10k`` (10,000)."""
    folder = data_folder()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run scripts/datasets path")
    raw = [gzip.decompress((folder / f"{split}-{name}.gz").read_bytes()) for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    images = np.frombuffer(raw[0], np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.frombuffer(raw[1], np.uint8, offset=8)
    return torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: images, half of them mirrored, and labels, in a new order each time."""
    images, labels = data("train")
    for chosen in torch.randperm(len(images))[:TRAIN_ON].split(BATCH):
        batch = images[chosen]
        mirrored = torch.rand(len(batch)) < 0.5
        yield torch.where(mirrored[:, None, None, None], batch.flip(3), batch), labels[chosen]


def train_step(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


def train(net: nn.Module) -> None:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-min(TRAIN_ON, 60000) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in batches():
            optimizer.zero_grad()
            torch.autograd.backward(train_step(net, batch))
            optimizer.step()
            schedule.step()


def cache_file() -> Path:
    """Where the weights lie; another network, training or torch gets a file of its own."""
    code = "".join(inspect.getsource(part) for part in (FashionNet, batches, train_step, train))
    settings = (EPOCHS, BATCH, SEED, TRAIN_ON, torch.__version__)
    recipe = hashlib.sha256(f"{code}{settings}".encode()).hexdigest()
    root = Path(os.environ.get("EDGEOPT_CACHE") or Path.home() / ".cache" / "edgeopt")
    return root / "examples" / f"fashion-mnist-{recipe[:16]}.pt"


def student() -> FashionNet:
    """Half as wide: a quarter of the parameters. It has learnt nothing yet."""
    torch.manual_seed(SEED)
    return FashionNet((16, 32, 64))


def trained() -> FashionNet:
    torch.manual_seed(SEED)
    net, path = FashionNet(), cache_file()
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
    """200 training images; the test images stay unseen."""
    for image in data("train")[0][:200]:
        yield (image[None],)


def evaluate(predict: Predict) -> dict[str, float]:
    """Accuracy on the 10,000 test images, and on the images of each class alone."""
    images, labels = (values[:TEST_ON] for values in data("t10k"))
    right = predict(images.numpy())[0].argmax(1) == labels.numpy()
    by_class = {name: float(right[labels.numpy() == number].mean()) for number, name in enumerate(CLASSES)}
    return {"accuracy": float(right.mean())} | by_class


def model() -> edgeopt.Model:
    example = (data("t10k")[0][:1],)
    return edgeopt.Model(trained(), example, calibration=calibration, evaluate=evaluate, name="fashion_mnist")
