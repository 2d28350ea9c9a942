"""Reading a ``.pt2`` file: no code that may hide in it runs, whoever wrote it."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.errors import EdgeoptError, ModelError
from edgeopt.model.input_text import LARGEST_INPUT
from edgeopt.model.program_guard import guarded
from edgeopt.model.user_code import summary
from edgeopt.support.log_diversion import dropped

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_SAVE_AGAIN = "save it again with torch.export.save, tensors only, in this version of torch"


def read_program(path: Path, extra_files: dict[str, str] | None = None) -> "ExportedProgram":
    """The program saved by ``torch.export.save``; the named ``extra_files`` are filled in.

    Raises ModelError where it is not one, or holds anything but tensors and known operators (:mod:`.program_guard`).
    """
    with dropped():
        import torch
        import torchao  # noqa: F401  registers torch.ops.quantized_decomposed, which a file's graph may name

    archive = guarded(path)
    refused: list[BaseException] = []
    try:
        with _tensors_only(), dropped(), _heard(refused):
            program = torch.export.load(archive, extra_files=extra_files)
        _refuse_large_inputs(path, program)
    except EdgeoptError:
        raise
    except Exception as error:  # torch raises anything from AssertionError to KeyError on a broken archive
        why = summary(refused[0] if refused else error)
        raise ModelError(f"{path} cannot be loaded as an exported program", why=why, fix=_SAVE_AGAIN) from error
    return program


def _refuse_large_inputs(path: Path, program: "ExportedProgram") -> None:
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        # A size that varies is left alone: asking for its number would make it that number.
        shape = [size for size in getattr(node.meta.get("val"), "shape", ()) if isinstance(size, int)]
        if node.op == "placeholder" and node.name in names and math.prod(shape) > LARGEST_INPUT:
            raise ModelError(f"{path} has an input of sizes {shape}", why="edgeopt takes 2**31 elements at most")


@contextmanager
def _heard(errors: list[BaseException]) -> Iterator[None]:
    """torch.export.load logs why it refuses an archive, and then raises an error that only says to look there."""
    logger = logging.getLogger("torch.export")

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            errors.append(record.exc_info[1])
        return True

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


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
