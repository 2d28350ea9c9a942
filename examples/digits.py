"""A small CNN on scikit-learn's 8x8 handwritten digits: trained here in seconds, released only if int8 stays accurate.

    edgeopt export examples/digits.py:model --max-drop 0.01 --out build/digits

The trained weights are kept in the user's cache folder, so the second run trains nothing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import edgeopt

Predict = Callable[..., tuple[NDArray[np.float32], ...]]
EPOCHS, BATCH, SEED = 15, 32, 0


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        """float32 [N, 1, 8, 8] in 0..1 -> scores [N, 10]."""
        scores: Tensor = self.classifier(self.features(image))
        return scores


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels: three quarters to train on."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(images, digits.target, random_state=SEED, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return train_images, train_labels, test_images, test_labels


def train(net: nn.Module) -> None:
    """The same weights each time: fixed seed, one thread, deterministic kernels."""
    images, labels, _, _ = data()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    whole = len(images) // BATCH * BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=EPOCHS * whole // BATCH)
    try:
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(images))[:whole].view(-1, BATCH):
                loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)


def cache_file() -> Path:
    """Where the weights lie; another recipe or another torch gets a file of its own."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + torch.__version__.encode()).hexdigest()
    root = Path(os.environ.get("EDGEOPT_CACHE") or Path.home() / ".cache" / "edgeopt")
    return root / "examples" / f"digits-{recipe[:16]}.pt"


def trained() -> DigitsNet:
    torch.manual_seed(SEED)
    net, path = DigitsNet(), cache_file()
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
    for image in data()[0][:200]:
        yield (image[None],)


def evaluate(predict: Predict) -> dict[str, float]:
    """Accuracy on the 450 test images."""
    _, _, images, labels = data()
    right = [
        int(predict(image[None])[0].argmax()) == label for image, label in zip(images.numpy(), labels.tolist(), strict=True)
    ]
    return {"accuracy": float(np.mean(right))}


def model() -> edgeopt.Model:
    example = (data()[2][:1],)
    return edgeopt.Model(trained(), example, calibration=calibration, evaluate=evaluate, name="digits")
