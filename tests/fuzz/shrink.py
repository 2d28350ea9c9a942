"""Makes a failing network as small as it can be: steps go, values become inputs, settings become plain ones."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.network import Input, Network, Step

PLAIN: dict[str, tuple[Any, ...]] = {
    "stride": (1,), "padding": (0,), "dilation": (1,), "groups": (1,), "bias": (True,), "output_padding": (0,), "more": ("",),
    "ceil": (False,), "affine": (True,), "depth": (1,), "both": (False,), "first": (True,), "keep": (False,),
    "mode": ("constant", "nearest"),
}  # fmt: skip
Fails = Callable[[Network], bool]


def shrink(network: Network, fails: Fails, seconds: float = 120.0) -> Network:
    """The smallest network found within ``seconds`` for which ``fails`` still holds."""
    ends = time.monotonic() + seconds
    seen = {network.source()}
    found = True
    while found:
        found = False
        for candidate in _smaller(network):
            if time.monotonic() > ends:
                return network
            if candidate.source() in seen or not runs(candidate):
                continue
            seen.add(candidate.source())
            if fails(candidate):
                network, found = candidate, True
                break
    return network


def runs(network: Network) -> bool:
    """Whether PyTorch takes the network and gives finite floats that are not all alike."""
    try:
        with torch.no_grad():
            outputs = network.module()(*network.samples(1)[0])
    except Exception:  # a candidate may ask for anything
        return False
    return all(isinstance(v, Tensor) and (not v.is_floating_point() or bool(torch.isfinite(v).all())) for v in outputs)


def _smaller(network: Network) -> Iterator[Network]:
    """Candidates, those that take most away first."""
    if len(network.outputs) > 1:
        yield from (replace(network, outputs=(each,)).used() for each in network.outputs)
        yield from (
            replace(network, outputs=tuple(o for j, o in enumerate(network.outputs) if j != i)).used()
            for i in range(len(network.outputs))
        )
    values = _values(network)
    ids = [step.id for step in network.steps if isinstance(values.get(step.id), Tensor)]
    if len(network.outputs) == 1:
        yield from (replace(network, outputs=(each,)).used() for each in ids if each not in network.outputs)
    for each in reversed(ids):
        yield from _as_input(network, each, values[each])
    for step in network.steps:
        yield from _bypassed(network, step, values)
    for step in network.steps:
        yield from _plainer(network, step)
    for given in network.inputs:
        yield from _plainer_input(network, given)


def _values(network: Network) -> dict[int, Any]:
    """What every step gives on one sample."""
    ids = tuple(step.id for step in network.steps)
    try:
        with torch.no_grad():
            given = network.samples(1)[0]
            found = replace(network, outputs=ids).module()(*given)
    except Exception:
        return {}
    return dict(zip(ids, found, strict=True)) | {each.id: value for each, value in zip(network.inputs, given, strict=True)}


def _as_input(network: Network, key: int, value: Tensor) -> Iterator[Network]:
    """The value of a step is given from outside; what made it goes."""
    dtype = str(value.dtype).removeprefix("torch.")
    if key in network.outputs or dtype not in ("float32", "bool") or any(step.shares == key for step in network.steps):
        return
    made = Input(key, tuple(value.shape), dtype)
    steps = tuple(step for step in network.steps if step.id != key)
    yield Network((*network.inputs, made), steps, network.outputs, network.seed).used()


def _bypassed(network: Network, step: Step, values: dict[int, Any]) -> Iterator[Network]:
    """Whoever reads the step reads one of its inputs instead, where that has the same shape."""
    own = values.get(step.id)
    for source in dict.fromkeys(step.inputs):
        value = values.get(source)
        if isinstance(own, Tensor) and isinstance(value, Tensor) and own.shape == value.shape and own.dtype == value.dtype:
            steps = tuple(_rewired(each, step.id, source) for each in network.steps if each.id != step.id)
            outputs = tuple(source if each == step.id else each for each in network.outputs)
            if all(each.shares != step.id for each in steps):
                yield replace(network, steps=steps, outputs=outputs).used()


def _rewired(step: Step, before: int, after: int) -> Step:
    return replace(step, inputs=tuple(after if each == before else each for each in step.inputs))


def _plainer(network: Network, step: Step) -> Iterator[Network]:
    for name, plain in PLAIN.items():
        for value in plain:
            if name in step.settings and step.settings[name] != value:
                changed = replace(step, settings={**step.settings, name: value})
                yield replace(network, steps=tuple(changed if each is step else each for each in network.steps))


def _plainer_input(network: Network, given: Input) -> Iterator[Network]:
    plain = replace(given, scale=1.0, offset=0.0)
    if plain != given and given.dtype == "float32":
        yield replace(network, inputs=tuple(plain if each is given else each for each in network.inputs))
