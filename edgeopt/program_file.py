"""Reading a ``.pt2`` file that came from somewhere else, without running code that may hide in it."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.errors import ModelError
from edgeopt.user_code import summary

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PICKLED = ("custom_obj_", "opaque_obj_")  # the prefixes in torch.export.pt2_archive.constants
_SAVE_AGAIN = "save it again with torch.export.save, tensors only, in this version of torch"


def load_program(path: Path) -> "ExportedProgram":
    """The program saved by ``torch.export.save``. Raises ModelError where it is not one, or holds pickled objects."""
    import torch

    _refuse_pickled_objects(path)
    try:
        with _tensors_only():
            return torch.export.load(path)
    except Exception as error:  # torch raises anything from AssertionError to KeyError on a broken archive
        raise ModelError(f"{path} cannot be loaded as an exported program", why=summary(error), fix=_SAVE_AGAIN) from error


def _refuse_pickled_objects(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if Path(name).name.startswith(_PICKLED)]
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is no .pt2 archive", why=summary(error), fix=_SAVE_AGAIN) from error
    if pickled:
        why = f"{pickled[0]} could run any code when it is loaded"
        raise ModelError(f"{path} holds pickled objects", why=why, fix="give the module as file.py:name instead")


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
