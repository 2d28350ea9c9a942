"""The saved program as every converter reads it."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.errors import ConversionError, ModelError
from edgeopt.support.untrusted import MESSAGE_BYTES, read

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


@dataclass(frozen=True, slots=True)
class Program:
    """``exported`` takes one positional tensor for each of ``input_names`` and returns a flat tuple of tensors."""

    exported: "ExportedProgram"
    input_names: tuple[str, ...]
    examples: "tuple[Tensor, ...]"
    """Zeros with each input's shape and dtype: to trace with, never to measure."""

    @property
    def quantized(self) -> bool:
        """Whether it holds Q/DQ nodes."""
        return any("quantized_decomposed" in str(node.target) for node in self.exported.graph.nodes)

    def again(self, module: "GraphModule") -> "Program":
        """This program with the edited graph of ``module``: its own inputs and outputs, other operators between them."""
        import torch

        with torch.no_grad():
            return replace(self, exported=torch.export.export(module, self.examples, strict=False))


def load_program(path: Path, extra_files: dict[str, str] | None = None) -> Program:
    """The program that ``torch.export.save`` wrote to ``path``; the named ``extra_files`` are filled in.

    Raises ConversionError where torch cannot read it.
    """
    import torch

    from edgeopt.model import program_file

    try:
        exported = program_file.read_program(path, extra_files)
    except ModelError as error:
        why = ": ".join(filter(None, (error.what, error.why)))
        raise ConversionError(f"the program {path.name} cannot be read", why=why, fix=error.fix) from error
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    names = tuple(str(name) for name in exported.graph_signature.user_inputs)
    values = [nodes[name].meta["val"] for name in names]
    examples = tuple(torch.zeros([int(size) for size in value.shape], dtype=value.dtype) for value in values)
    return Program(exported, names, examples)


def distinct_names(outputs: tuple[str, ...], inputs: tuple[str, ...]) -> tuple[str, ...]:
    """``outputs``, with ``_output`` added to those that an input is called too: a file's tensor names are unique.

    A name that is taken even so, or that two outputs have, gets a number.
    """
    found: list[str] = []
    for name in outputs:
        wanted = f"{name}_output" if name in inputs else name
        taken = {*inputs, *found, *(other for other in outputs if other != name)}
        others = (f"{wanted}_{number}" for number in itertools.count(2))
        found.append(next(each for each in itertools.chain((wanted,), others) if each not in taken))
    return tuple(found)


def content_of(path: Path) -> bytes:
    """The artifact ``path``, of at most 2 GiB. Raises ConversionError where it cannot be read, or is no regular file."""
    try:
        return read(path, MESSAGE_BYTES)
    except OSError as error:
        raise ConversionError(f"{path.name} cannot be read", why=error.strerror or str(error)) from error


LONGEST = 300
"""Characters of a library's message that are shown."""


def first_line(error: BaseException) -> str:
    """The first line of ``error``'s message that says something, at most 300 characters; else its class."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:LONGEST] for line in lines if line), type(error).__name__)
