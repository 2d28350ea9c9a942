"""Tells cheaply whether a model, its data functions and all code behind them are the same as in an earlier run.

Exporting a program only to find that nothing changed takes seconds. A fingerprint takes milliseconds: it covers every
tensor and attribute of the module, the bytecode of functions with what they close over, installed packages, and the files of
the user's own modules. What it cannot look into (an object of a compiled extension) makes it give up: then the work is done
again. Functions count with all that they look up around them, as it is at this moment: in a notebook or an interactive session
there is no file that would show a change, and a file shows none of what was assigned since.
It cannot see files that ``evaluate`` reads: ``--no-cache`` is for those.
"""

import collections
import enum
import functools
import hashlib
import logging
import os
import re
import sys
import sysconfig
import types
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from edgeopt.model.code_references import imported, is_users_function, is_users_module, is_users_name, references

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
    enum.Enum,
    np.generic,
    np.dtype,
)
_PLAIN_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_CODE = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    functools.partial,
    property,
    functools.cached_property,
    staticmethod,
    classmethod,
)
_SEEN_THROUGH = (object, dict, collections.OrderedDict, list, tuple, set, frozenset, types.MappingProxyType)
_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: a class that was made by Python code, or at least while the program runs; others are of C."""
_NOT_IN_A_CLASS = (
    *(
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
        "_abc_impl",
    ),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__", "__parameters__"),
    *("__dataclass_fields__", "__dataclass_params__"),  # the defaults stand in __init__ too
)
_BLIND = ("globals", "eval", "exec", "__import__")
"""Builtins that look up what stands in no code."""


class CannotTell(Exception):
    """An object whose state cannot be seen from Python."""


def fingerprint(*subjects: Any) -> str | None:
    """A digest that changes whenever ``subjects`` or any loaded code does; None where that cannot be told."""
    walker = _Walker()
    try:
        walker.walk(subjects)
    except Exception:  # CannotTell, a recursion without end, or whatever an object raises when it is looked at
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
    not_user_code = tuple(
        f"{folder}{os.sep}" for folder in (sysconfig.get_path("stdlib"), *installed, Path(__file__).parents[1])
    )
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
    for folder, folders, names in os.walk(Path(__file__).parents[1], followlinks=True):
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
            self._array(value)
        elif isinstance(value, torch.Generator):
            self._bytes(value.get_state())
        elif isinstance(value, type):
            self._class(value)
        elif (stands_for := _short(value)) is not None:
            self.walk(stands_for)
        elif isinstance(value, _CODE):
            self._callable(value)
        else:
            self.walk(type(value))
            self._container(value)

    def _bytes(self, tensor: torch.Tensor) -> None:
        self.add(f"{tensor.dtype} {tuple(tensor.shape)}")
        if tensor.layout is not torch.strided:
            raise CannotTell(f"a tensor with layout {tensor.layout}")
        self.digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def _array(self, array: Any) -> None:
        self.add(f"{array.dtype} {array.shape}")
        if array.dtype.hasobject:
            return self.walk(array.tolist())
        return self.digest.update(np.ascontiguousarray(array).data)

    def _callable(self, value: Any) -> None:
        match value:
            case functools.partial():
                self.walk((value.func, value.args, value.keywords))
            case types.MethodType():
                self.walk((value.__self__, value.__func__))
            case staticmethod() | classmethod():
                self.walk(value.__func__)
            case property():
                self.walk((value.fget, value.fset, value.fdel))
            case functools.cached_property():
                self.walk(value.func)
            case types.FunctionType():
                self._function(value)
            case _:  # of C
                self.add(value.__qualname__)
                self.walk((getattr(value, "__objclass__", None), getattr(value, "__self__", None)))

    def _function(self, function: types.FunctionType) -> None:
        self._code(function.__code__)
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        self.walk((function.__defaults__, function.__kwdefaults__, cells, vars(function)))
        if is_users_function(function):
            self._surroundings(function)

    def _code(self, code: types.CodeType) -> None:
        """Not by ``marshal``: it would count file names and line numbers, and differs with what else refers to a constant."""
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self.add(f"{code.co_name} {shape} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}")
        self.digest.update(code.co_code + code.co_exceptiontable)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.add(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))

    def _surroundings(self, function: types.FunctionType) -> None:
        """What the user's function looks up outside of itself, as it is at this moment."""
        used, around = references(function.__code__), function.__globals__
        modules: list[Any] = [imported(one, around.get("__package__")) for one in used.imports]
        if "import_module" in used.names:
            raise CannotTell("what import_module will give")
        for name in used.globals:
            if name in around:
                self.add(name)
                self.walk(around[name])
                modules.append(around[name])
            elif name in _BLIND:
                raise CannotTell(f"what {name} will look up")
        for module in modules:
            if isinstance(module, types.ModuleType) and is_users_module(module):
                self.walk({name: value for name, value in vars(module).items() if name in used.names})

    def _class(self, kind: type) -> None:
        """Its name, and all that a user wrote in it: of a package's class the functions that were put there by others."""
        self.add(f"{kind.__module__}.{kind.__qualname__}")
        for base in kind.__mro__[:-1]:
            users = is_users_name(base.__module__)
            for name, value in vars(base).items():
                if name not in _NOT_IN_A_CLASS and (users or _put_there(value)):
                    self.add(name)
                    self.walk(value)

    def _container(self, value: Any) -> None:
        if not all(base.__flags__ & _HEAP_TYPE or base in _SEEN_THROUGH for base in type(value).__mro__):
            raise CannotTell(f"a {type(value).__qualname__}")
        if isinstance(value, dict | types.MappingProxyType):
            for key, item in value.items():
                self.walk(key)
                self.walk(item)
        if isinstance(value, list | tuple):
            for item in value:
                self.walk(item)
        if isinstance(value, set | frozenset):
            for item in sorted(value, key=repr):
                self.walk(item)
        attributes = _attributes(value)
        if attributes is not None:
            self.walk(attributes)
        elif not isinstance(value, _SEEN_THROUGH[1:]):
            raise CannotTell(f"a {type(value).__qualname__}")


def _short(value: Any) -> Any:
    """What says all about ``value`` without looking into it; None where nothing does."""
    match value:
        case types.ModuleType():
            return value.__name__
        case logging.Logger():
            return value.name
        case re.Pattern():
            return value.pattern, value.flags
        case np.random.Generator():
            return value.bit_generator.state
        case types.GenericAlias() | types.UnionType():
            return repr(value)
        case np.ufunc():
            return value.__name__
        case _:
            return f"{value.__module__}.{value.__qualname__}" if _is_named(value) else None


def _is_named(value: Any) -> bool:
    """Whether a package holds ``value`` under its own name: its version says all about it."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)) or is_users_name(module):
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _contents(cell: types.CellType) -> Any:
    """What a closure holds; a name of its own where it is not assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return "<empty cell>"


def _put_there(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and is_users_function(value)


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
