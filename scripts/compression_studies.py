"""Tables that compare ways to train and to choose: bench_compression.py prints them."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.common.training import Trainer, fine_tune
from edgeopt.compress.distill.distill import Distill
from edgeopt.compress.early_exit.early_exit import EarlyExit, measured
from edgeopt.compress.early_exit.exits import EarlyExits
from edgeopt.compress.search.search import search
from edgeopt.compress.technique import Context, TrainBatches
from edgeopt.compress.zeros.lottery import Lottery
from edgeopt.compress.zeros.magnitude import Magnitude
from edgeopt.core import TWIN
from edgeopt.latency.modules import layer_latency
from edgeopt.registry import LOCAL
from edgeopt.report.compress_view import short
from edgeopt.support.log_diversion import diverted
from examples import digits
from examples import fashion_mnist as fashion

Lines = Iterator[list[str]]
"""Cells of a table, its head first."""
Batches = Iterator[tuple[Tensor, Tensor]]
SEEDS = (0, 1, 2)


def over_seeds(name: str, accuracies: list[float]) -> list[str]:
    """A row: the mean, then each."""
    return [name, f"{mean(accuracies):.2%}", ", ".join(f"{one:.2%}" for one in accuracies)]


def shuffled(images: Tensor, labels: Tensor, size: int) -> Batches:
    """One epoch in a new order."""
    for chosen in torch.randperm(len(images)).split(size):
        yield images[chosen], labels[chosen]


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        return float(torch.cat([net(part).argmax(1) for part in images.split(1000)]).eq(labels).float().mean())


# -- distillation: 1,000 images of Fashion-MNIST, a student of 18,482 parameters, a teacher of 288,170

LABELLED, EPOCHS, RATE = 1000, 20, 1e-2


def few() -> Batches:
    images, labels = (values[:LABELLED] for values in fashion.data("train"))
    return shuffled(images, labels, 50)


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return fashion.FashionNet((8, 16, 32))


def alone(seed: int, epochs: int) -> nn.Module:
    student = small(seed)
    Trainer(train_step=fashion.train_step, batches=few, learning_rate=RATE).fit(student, epochs)
    return student


def distilled(seed: int, settings: Distill) -> nn.Module:
    images = fashion.data("t10k")[0]
    given = Context(example_inputs=images[:1], student=small(seed), train_step=fashion.train_step, train_batches=few)
    return settings.apply(fashion.trained(), given).module


def distillation() -> Lines:
    yield ["the student", "accuracy, mean of 3 seeds", "each"]
    single = Distill(epochs=EPOCHS, learning_rate=RATE, progressive="off")
    ways: dict[str, Callable[[int], nn.Module]] = {
        f"alone, {EPOCHS} epochs": lambda seed: alone(seed, EPOCHS),
        f"alone, {2 * EPOCHS} epochs": lambda seed: alone(seed, 2 * EPOCHS),
        f"distilled, {EPOCHS} epochs": lambda seed: distilled(seed, single),
        f"distilled, {2 * EPOCHS} epochs": lambda seed: distilled(seed, replace(single, epochs=2 * EPOCHS)),
        f"through one assistant, {EPOCHS} epochs each": lambda seed: distilled(seed, replace(single, progressive="insert")),
    }
    for name, made in ways.items():
        yield over_seeds(name, [accuracy(made(seed), *fashion.data("t10k")) for seed in SEEDS])


# -- early exits on the Fashion-MNIST network

EXIT_IMAGES = 15_000


def exit_batches() -> Batches:
    images, labels = fashion.data("train")
    chosen = torch.randperm(len(images))[:EXIT_IMAGES]
    return shuffled(images[chosen], labels[chosen], fashion.BATCH)


def halves() -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The test images that calibrate the thresholds, and those that judge."""
    parts = list(zip(*(values.split(1000) for values in fashion.data("t10k")), strict=True))
    return parts[:5], parts[5:]


def exits() -> Lines:
    net, (held_out, judging) = fashion.trained(), halves()
    example = (held_out[0][0][:1],)
    whole = macs(net, example)
    yield ["`max_drop`", "samples by exit", "MACs expected", "share", "accuracy", "of the last exit alone"]
    for budget in (0.005, 0.01, 0.02):
        torch.manual_seed(0)
        given = Context(example_inputs=example, train_batches=exit_batches, held_out=held_out)
        made = EarlyExit(max_drop=budget, epochs=3).apply(net, given).module
        if not isinstance(made, EarlyExits):
            yield [f"{budget:g}", "no exit is sure to keep within it", short(whole), "100%", "-", "-"]
            continue
        found = measured(made, judging, example)
        by_exit = ", ".join(f"{share:.0%} at {short(cost)}" for share, cost in zip(found.shares, found.costs, strict=True))
        spent = [by_exit, short(round(found.macs)), f"{found.macs / whole:.0%}"]
        yield [f"{budget:g}", *spent, f"{found.accuracy:.2%}", f"{found.full_accuracy:.2%}"]


# -- lottery tickets on the digits

ZEROS, ROUNDS, TRAINED = 0.97, 4, 10


def digits_batches() -> Batches:
    images, labels, _, _ = digits.data()
    return shuffled(images, labels, digits.BATCH)


def digits_fit(module: nn.Module, epochs: int) -> None:
    Trainer(train_step=fashion.train_step, batches=digits_batches, learning_rate=1e-2).fit(module, epochs)


def untrained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return digits.DigitsNet()


def digits_accuracy(net: nn.Module) -> float:
    _, _, images, labels = digits.data()
    return accuracy(net, images, labels)


def dense(seed: int) -> nn.Module:
    net = untrained(seed)
    digits_fit(net, (ROUNDS + 1) * TRAINED)
    return net


def ticket(seed: int, values: int) -> nn.Module:
    """The ticket of ``seed``, trained from the first values of the network of the seed ``values``."""
    found = Lottery(sparsity=ZEROS, rounds=ROUNDS, epochs=TRAINED).ticket(untrained(seed), digits_context())
    assert found.keep is not None
    restore = found.keep(found.module)
    found.module.load_state_dict(untrained(values).state_dict())
    restore()
    fine_tune(digits_fit, found.module, TRAINED, found.keep)
    return found.module


def pruned(seed: int, steps: int) -> nn.Module:
    """Trained, pruned and trained on: as many epochs in all as the tickets have."""
    net = untrained(seed)
    digits_fit(net, TRAINED)
    settings = Magnitude(sparsity=ZEROS, steps=steps, schedule="iterative", epochs_between=TRAINED)
    found = settings.apply(net, digits_context())
    fine_tune(digits_fit, found.module, (ROUNDS + 1 - steps) * TRAINED, found.keep)
    return found.module


def digits_context() -> Context:
    return Context(example_inputs=(digits.data()[0][:1],), fit=digits_fit)


def tickets() -> Lines:
    yield [f"{ZEROS:.0%} zeros", "accuracy, mean of 3 seeds", "each"]
    ways: dict[str, Callable[[int], nn.Module]] = {
        "the network with all weights": dense,
        "lottery ticket, its own first values": lambda seed: ticket(seed, seed),
        "the same ticket, other first values": lambda seed: ticket(seed, seed + len(SEEDS)),
        "magnitude at once, then trained on": lambda seed: pruned(seed, 1),
        f"magnitude in {ROUNDS} steps, no rewinding": lambda seed: pruned(seed, ROUNDS),
    }
    for name, made in ways.items():
        yield over_seeds(name, [digits_accuracy(made(seed)) for seed in SEEDS])


# -- a search over widths and depths of the Fashion-MNIST network

SEARCH_IMAGES, WIDTHS, STAGES = 20_000, (8, 16, 32), (2, 3)


def search_fit(module: nn.Module, epochs: int) -> None:
    images, labels = (values[:SEARCH_IMAGES] for values in fashion.data("train"))
    batches: TrainBatches = lambda: shuffled(images, labels, fashion.BATCH)  # noqa: E731
    Trainer(train_step=fashion.train_step, batches=batches, learning_rate=3e-3).fit(module, epochs)


def family(width: int, stages: int) -> nn.Module:
    return fashion.FashionNet(tuple(width << stage for stage in range(stages)))


def pareto() -> Lines:
    example = (fashion.data("t10k")[0][:1],)
    ends = [(family(WIDTHS[index], STAGES[index]).eval(), example) for index in (0, -1)]
    with tempfile.TemporaryDirectory() as name, diverted(Path(name) / "log"):  # what the converters say
        times = layer_latency(ends, target=TWIN, form="tflite", device=LOCAL, path=Path(name) / "layers.json")
    given = Context(example_inputs=example, evaluate=fashion.evaluate, fit=search_fit)
    found = search(family, {"width": WIDTHS, "stages": STAGES}, given, epochs=4, latency=times)
    yield ["network", "accuracy", "parameters", "MACs", "TFLite fp32, predicted", "on the front"]
    for trial in sorted(found.trials, key=lambda trial: trial.cost(found.cost)):
        figures = [f"{trial.score:.4f}", short(trial.parameters), short(trial.macs), f"{trial.latency_ms:.3f} ms"]
        yield [trial.name, *figures, "yes" if trial in found.front else "no"]


PARTS: dict[str, Callable[[], Lines]] = {
    "distill": distillation,
    "exit": exits,
    "lottery": tickets,
    "search": pareto,
}
