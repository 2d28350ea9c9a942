"""A random network as plain data, and the PyTorch source that it stands for.

A step is one call: its template, the values that it reads, and settings. Source is what runs and what is printed, so a failure
that is shown can be pasted as it is.
"""

import inspect
import json
import linecache
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Example = tuple[Tensor, ...]


@dataclass(frozen=True)
class Input:
    """An input: floats around ``offset`` with the spread ``scale``, integers below ``below``, or booleans."""

    id: int
    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 1.0
    offset: float = 0.0
    below: int = 0

    @property
    def name(self) -> str:
        return f"x{self.id}"

    def drawn(self, generator: torch.Generator) -> Tensor:
        """One sample."""
        if self.dtype == "bool":
            return torch.rand(self.shape, generator=generator) < 0.6
        if self.dtype == "int64":
            return torch.randint(0, self.below, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator) * self.scale + self.offset


@dataclass(frozen=True)
class Step:
    """One call. ``{0}`` is the first value read, ``{m}`` the layer, ``{out}`` the result where the call is a statement."""

    id: int
    op: str
    call: str
    inputs: tuple[int, ...]
    layer: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    shares: int | None = None
    """The step whose layer is called again, or whose weight is tied."""

    @property
    def name(self) -> str:
        return f"{self.op}_{self.id}"


@dataclass(frozen=True)
class Network:
    """Steps in order; values are named by the id of the input or step that gives them."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Network":
        data = json.loads(text)
        inputs = tuple(Input(**{**each, "shape": tuple(each["shape"])}) for each in data["inputs"])
        steps = tuple(Step(**{**each, "inputs": tuple(each["inputs"])}) for each in data["steps"])
        return cls(inputs, steps, tuple(data["outputs"]), data["seed"])

    @property
    def operators(self) -> tuple[str, ...]:
        """The kinds of operators, sorted, those that only take a part of a tuple left out."""
        return tuple(sorted({step.op for step in self.steps if step.op != "item"}))

    def used(self) -> "Network":
        """Without the steps and inputs that no output needs."""
        wanted, kept = set(self.outputs), []
        for step in reversed(self.steps):
            if step.id in wanted:
                kept.append(step)
                wanted |= {*step.inputs, *(() if step.shares is None else (step.shares,))}
        inputs = tuple(each for each in self.inputs if each.id in wanted)
        return replace(self, inputs=inputs or self.inputs[:1], steps=tuple(reversed(kept)))

    def samples(self, count: int, seed: int = 0) -> list[Example]:
        """``count`` samples of all inputs."""
        found = []
        for index in range(count):
            generators = [torch.Generator().manual_seed(_hash(self.seed, each.name, seed, index)) for each in self.inputs]
            found.append(tuple(each.drawn(g) for each, g in zip(self.inputs, generators, strict=True)))
        return found

    def source(self, name: str = "Net") -> str:
        """The class of this network."""
        return _source(self, name)

    def module(self) -> nn.Module:
        """The network in eval mode, with weights and statistics unlike a constructor's; each call gives a new one."""
        return fill(_classes(self.source())["Net"](), self.seed)

    def script(self) -> str:
        """A Python file that builds the network and an example."""
        shapes = ", ".join(_example_source(each) for each in self.inputs)
        lines = [inspect.getsource(fill), self.source(), f"net, example = fill(Net(), {self.seed}), ({shapes},)"]
        return "import zlib, torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n" + "\n".join(lines)


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights, statistics and buffers unlike those of a constructor; each from its own name."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        with torch.no_grad():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.uniform_(0.1, 6, generator=generator)
            elif value.dim() >= 2:
                value.normal_(0, 1.3 / max(value[0].numel(), 1) ** 0.5, generator=generator)
            elif name.endswith("weight"):
                value.uniform_(0.3, 2, generator=generator)
            else:
                value.normal_(0, 0.7, generator=generator)
    return module.eval()


def joined(networks: Sequence[Network]) -> tuple[nn.Module, list[Example]]:
    """One module that holds all networks side by side, each with inputs and outputs of its own, and two examples."""
    names = [[f"n{index}_{each.name}" for each in network.inputs] for index, network in enumerate(networks)]
    calls = ", ".join(f"*self.n{index}({', '.join(inputs)})" for index, inputs in enumerate(names))
    members = "\n".join(f"        self.n{index} = Net{index}()" for index in range(len(networks)))
    arguments = ", ".join(name for inputs in names for name in inputs)
    classes = [network.source(f"Net{index}") for index, network in enumerate(networks)]
    whole = "\n".join(
        [*classes, _HEAD.format(name="Joined"), members, _FORWARD.format(arguments), f"        return ({calls},)"]
    )
    module = _classes(whole)["Joined"]()
    for index, network in enumerate(networks):
        fill(getattr(module, f"n{index}"), network.seed)
    return module.eval(), joined_samples(networks, 2)


def joined_samples(networks: Sequence[Network], count: int, seed: int = 0) -> list[Example]:
    """Samples of the module that :func:`joined` makes."""
    each = [network.samples(count, seed) for network in networks]
    return [tuple(value for samples in each for value in samples[index]) for index in range(count)]


_HEAD = "class {name}(nn.Module):\n    def __init__(self):\n        super().__init__()"
_FORWARD = "    def forward(self, {}):"


def _source(network: Network, name: str) -> str:
    lines = [_HEAD.format(name=name)]
    lines += [f"        {_constructed(step)}" for step in network.steps if step.layer]
    lines.append(_FORWARD.format(", ".join(each.name for each in network.inputs)))
    names = {step.id: f"v{step.id}" for step in network.steps} | {each.id: each.name for each in network.inputs}
    layers = {step.id: f"self.{step.name}" for step in network.steps if step.layer}
    for step in network.steps:
        lines += [f"        {line}" for line in _called(step, names, layers).splitlines()]
    lines.append(f"        return ({', '.join(names[each] for each in network.outputs)},)")
    return "\n".join(lines) + "\n"


def _constructed(step: Step) -> str:
    made = step.layer.format(**step.settings)
    buffer = made.removeprefix("buffer ")
    return f'self.register_buffer("{step.name}", {buffer})' if buffer != made else f"self.{step.name} = {made}"


def _called(step: Step, names: dict[int, str], layers: dict[int, str]) -> str:
    layer = layers.get(step.id if step.shares is None else step.shares, "")
    given = [names[each] for each in step.inputs]
    text = step.call.format(*given, m=layer, out=f"v{step.id}", **step.settings)
    return text if "{out}" in step.call else f"v{step.id} = {text}"


def _example_source(given: Input) -> str:
    if given.dtype == "bool":
        return f"torch.rand{given.shape} < 0.6"
    if given.dtype == "int64":
        return f"torch.randint(0, {given.below}, {given.shape})"
    scale = "" if given.scale == 1 else f" * {given.scale:g}"
    return f"torch.randn{given.shape}{scale}" + (f" + {given.offset:g}" if given.offset else "")


def _classes(source: str) -> dict[str, Any]:
    return dict(_compiled(source))


@lru_cache(maxsize=64)
def _compiled(source: str) -> Iterable[tuple[str, Any]]:
    """The names that ``source`` defines. Tracebacks find its lines, as they do those of a file."""
    path = f"/fuzz/network_{zlib.crc32(source.encode()):08x}.py"
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": torch.nn.functional, "__name__": "network"}
    exec(compile(source, path, "exec"), names)
    return tuple(names.items())


def _hash(*parts: object) -> int:
    return zlib.crc32(" ".join(map(str, parts)).encode())
