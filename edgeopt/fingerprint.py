"""Tells cheaply whether a model, its data functions and all code behind them are the same as in an earlier run.

Exporting a program only to find that nothing changed takes seconds. A fingerprint takes milliseconds: it covers every
tensor and attribute of the module, the bytecode of functions with what they close over, installed packages, and the files of
the user's own modules. What it cannot look into (an object of a compiled extension) makes it give up: then the work is done
again. It cannot see files that ``evaluate`` reads: ``--no-cache`` is for those.
"""

import enum
import functools
import hashlib
import marshal
import os
import re
import sys
import sysconfig
import types
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

_PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    range,
    slice,
    PurePath,
    re.Pattern,
    enum.Enum,
    np.generic,
    np.dtype,
)
_PLAIN_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)


class CannotTell(Exception):
    """An object whose state cannot be seen from Python."""


def fingerprint(*subjects: Any) -> str | None:
    """A digest that changes whenever ``subjects`` or any loaded code does; None where that cannot be told."""
    walker = _Walker()
    try:
        walker.walk(subjects)
    except (CannotTell, RecursionError):
        return None
    walker.add(code_in_use())
    return walker.digest.hexdigest()


def code_in_use() -> str:
    """A digest of edgeopt, of every installed package, and of each loaded file that belongs to neither: the user's code.

    Packages count by the names and times of their ``.dist-info`` folders, wherever they are imported and whenever: a digest
    of loaded modules alone would change with whatever an earlier export of this process happened to import.
    """
    installed = {Path(entry) for entry in map(sysconfig.get_path, ("purelib", "platlib"))}
    lines = [f"{sys.version} {own_code()}"]
    lines += [_stamp(entry) for folder in installed if folder.is_dir() for entry in folder.glob("*.dist-info")]
    not_user_code = tuple(f"{folder}{os.sep}" for folder in (sysconfig.get_path("stdlib"), *installed, Path(__file__).parent))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name.partition(".")[0] != "edgeopt" and not file.startswith(not_user_code):
            lines.append(_stamp(Path(file)))
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # made in memory, or gone since
        return str(path)
    return f"{path} {status.st_size} {status.st_mtime_ns}"


@functools.cache
def own_code() -> str:
    """A digest of edgeopt itself, source and profiles: an artifact made by other code of the same version is not reused."""
    digest = hashlib.sha256()
    # The folders of targets and converters are links in a source checkout.
    for folder, folders, names in os.walk(Path(__file__).parent, followlinks=True):
        folders.sort()
        for name in sorted(name for name in names if name.endswith((".py", ".toml"))):
            content = Path(folder, name).read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


class _Walker:
    """Feeds everything reachable from an object into one digest; objects seen before count by their number."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def add(self, text: str) -> None:
        self.digest.update(f"{len(text)} {text}\n".encode())

    def walk(self, value: Any) -> None:
        if isinstance(value, _PLAIN + _PLAIN_TORCH):
            return self.add(f"{type(value).__qualname__} {value!r}")
        if id(value) in self._seen:
            return self.add(f"again {self._seen[id(value)]}")
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # so that no other object gets its id while this runs
        self.add(f"{type(value).__module__}.{type(value).__qualname__}")
        return self._walk_inside(value)

    def _walk_inside(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._bytes(value.detach().cpu().contiguous())
        elif isinstance(value, np.ndarray):
            self.add(f"{value.dtype} {value.shape}")
            self.digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, type | types.ModuleType):
            self.add(value.__name__)
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            self._function(value)
        elif isinstance(value, types.BuiltinFunctionType):
            self.add(value.__qualname__)
        else:
            self._container(value)

    def _bytes(self, tensor: torch.Tensor) -> None:
        self.add(f"{tensor.dtype} {tuple(tensor.shape)}")
        if tensor.layout is not torch.strided:
            raise CannotTell(f"a tensor with layout {tensor.layout}")
        self.digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def _function(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            return self.walk((value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return self.walk((value.__self__, value.__func__))
        self.digest.update(marshal.dumps(value.__code__))
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return self.walk((value.__defaults__, value.__kwdefaults__, cells))

    def _container(self, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                self.walk(key)
                self.walk(item)
        if isinstance(value, list | tuple):
            for item in value:
                self.walk(item)
        if isinstance(value, set | frozenset):
            self.add(repr(sorted(map(repr, value))))
        attributes = _attributes(value)
        if attributes is not None:
            self.walk(attributes)
        elif not isinstance(value, dict | list | tuple | set | frozenset):
            raise CannotTell(f"a {type(value).__qualname__}")


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object holds, from its dict and slots; None for one that keeps its state outside Python."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    if hasattr(value, "__dict__"):
        found |= vars(value)
        return found
    return found if slots else None


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__weakref__", "__dict__"))
