"""Weights that an ONNX file keeps in other files beside it (ONNX's external data): which they are."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.converters.onnx import file as onnx_file
from edgeopt.errors import ConfigError
from edgeopt.support.files import safe_relative
from edgeopt.support.untrusted import opened, shown

if TYPE_CHECKING:
    from google.protobuf.message import Message

_KEY = b"\x0a\x08location"
"""onnx.proto: the field ``key`` of a StringStringEntryProto."""
_FIX = "save it again with its weights beside it: onnx.save_model(model, path, save_as_external_data=True)"


def external_files(path: Path) -> tuple[str, ...]:
    """The files that the ONNX file ``path`` names, relative to its folder, with ``/``, sorted; none for most models.

    Raises ConfigError for one that is not there, or that is not inside that folder, where a link leads outside too;
    ConversionError where ``path`` is no ONNX file.
    """
    model = onnx_file.read(path)
    return tuple(sorted({_checked(path, location) for location in _locations(model)}))


def may_name_files(path: Path) -> bool:
    """Whether the bytes of ``path`` hold the key under which a tensor names its file; False is certain."""
    with opened(path) as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_KEY) >= 0


def _checked(path: Path, location: str) -> str:
    try:
        name = safe_relative(location).as_posix()
    except ValueError as error:
        raise _outside(path, location) from error
    found = path.parent / name
    if not found.is_file():
        why = f"it holds weights of the model, and is not in {path.parent}"
        raise ConfigError(f"{path} needs the file {name}", why=why, fix="put it there, under that very name")
    if not found.resolve().is_relative_to(path.parent.resolve()):
        raise _outside(path, location)
    return name


def _outside(path: Path, location: str) -> ConfigError:
    return ConfigError(f"{path} has weights outside its folder", why=f"in {shown(location)}", fix=_FIX)


def _locations(message: "Message") -> Iterator[str]:
    """Of every tensor, wherever it stands: initializers, attributes, subgraphs, functions."""
    import onnx
    from google.protobuf.message import Message

    if isinstance(message, onnx.TensorProto) and onnx.external_data_helper.uses_external_data(message):
        yield next((onnx_file.text(entry.value) for entry in message.external_data if entry.key == "location"), "")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _locations(inner)
