"""Compressed modules in files: the whole nn.Module, read back without running what a file says.

A pickle can name any function. Here a file may name only what the user's own module (which their code has just built) is
made of, and torch.nn: everything else is refused by ``torch.load(weights_only=True)``.
"""

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeopt.errors import ModelError, ReferenceNotFound
from edgeopt.model.user_code import summary
from edgeopt.support.files import write_atomic

_MOVED = {
    "edgeopt.compress.structure.attention": "edgeopt.compress.common.attention",
    "edgeopt.compress.families.family": "edgeopt.compress.search.family",
    "edgeopt.compress.stages.chain": "edgeopt.compress.early_exit.chain",
    "edgeopt.compress.stages.exits": "edgeopt.compress.early_exit.exits",
}
"""Where edgeopt's own layers are now that files of an earlier 0.1.0 name elsewhere."""


def save(module: nn.Module, path: Path) -> None:
    """Writes ``module``, structure and weights, to ``path``. Raises ModelError where it cannot be pickled."""
    write_atomic(path, _pickled(module))


def load(path: Path, like: nn.Module) -> nn.Module:
    """The module in ``path``, made of the classes and functions that ``like`` is made of, of torch.nn and edgeopt's own.

    Raises ReferenceNotFound where there is no such file, ModelError where it names anything else or is damaged.
    """
    if not path.is_file():
        raise ReferenceNotFound(f"there is no file {path}", fix="check the path")
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        trusted = set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(_pickled(like))))
        allowed: list[Any] = [(_found(name), name) for name in named if name in trusted or _is_ours(name)]
        with torch.serialization.safe_globals(allowed):
            module: nn.Module = torch.load(path, weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        why = summary(error)
        raise ModelError(f"{path} cannot be read as a module", why=why, fix="run that step again") from error
    return module


def _is_ours(name: str) -> bool:
    """Layers of torch and of edgeopt; classes only, so that a file cannot have a function of theirs called."""
    return name.startswith(("torch.nn.modules.", "edgeopt.compress.")) and isinstance(_found(name), type)


def _found(name: str) -> Any:
    """What a dotted name stands for. Its module is imported only if the user's model, torch or edgeopt has it."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(_MOVED.get(module, module)), attribute)


def _pickled(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.save(module, buffer)
    except Exception as error:
        fix = "define its classes and functions at the top of a file: lambdas and local classes cannot be saved"
        raise ModelError("the module cannot be saved", why=summary(error), fix=fix) from error
    return buffer.getvalue()
