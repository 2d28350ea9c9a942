"""Reading a ``.pt2`` file: no code that may hide in it runs, whoever wrote it."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.chatter import dropped
from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.input_text import LARGEST_INPUT
from edgeopt.program_guard import guarded
from edgeopt.user_code import summary

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_SAVE_AGAIN = "save it again with torch.export.save, tensors only, in this version of torch"


def load_program(path: Path, extra_files: dict[str, str] | None = None) -> "ExportedProgram":
    """The program saved by ``torch.export.save``; the named ``extra_files`` are filled in.

    Raises ModelError where it is not one, or holds anything but tensors and known operators (:mod:`edgeopt.program_guard`).
    """
    with dropped():
        import torch
        import torchao  # noqa: F401  registers torch.ops.quantized_decomposed, which a file's graph may name

    archive = guarded(path)
    try:
        with _tensors_only():
            program = torch.export.load(archive, extra_files=extra_files)
        _refuse_large_inputs(path, program)
    except EdgeoptError:
        raise
    except Exception as error:  # torch raises anything from AssertionError to KeyError on a broken archive
        raise ModelError(f"{path} cannot be loaded as an exported program", why=summary(error), fix=_SAVE_AGAIN) from error
    return program


def _refuse_large_inputs(path: Path, program: "ExportedProgram") -> None:
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        # A size that varies is left alone: asking for its number would make it that number.
        shape = [size for size in getattr(node.meta.get("val"), "shape", ()) if isinstance(size, int)]
        if node.op == "placeholder" and node.name in names and math.prod(shape) > LARGEST_INPUT:
            raise ModelError(f"{path} has an input of sizes {shape}", why="edgeopt takes 2**31 elements at most")


@contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.export.load asks for unrestricted unpickling in places; this variable overrules it."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
