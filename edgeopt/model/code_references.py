"""What code refers to outside of itself: which of it is the user's, which names it looks up, which modules it imports."""

import dis
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from pathlib import Path

from edgeopt.model.user_code import is_users_file

_LOOK_UPS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: ``from .a import b, c`` is ``Import(1, "a", ("b", "c"))``."""

    level: int
    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeReferences:
    """Of one code object, the functions and classes nested in it included."""

    globals: tuple[str, ...]
    """Names that are looked up in the module, or in builtins."""
    imports: tuple[Import, ...]
    names: frozenset[str]
    """Every name in it, attributes included."""


def references(code: types.CodeType) -> CodeReferences:
    """What ``code`` names, in order."""
    found: dict[str, None] = {}
    imports: dict[Import, None] = {}
    names: set[str] = set()
    for one in nested(code):
        names.update(one.co_names)
        before: list[dis.Instruction] = []
        for instruction in dis.get_instructions(one):
            if instruction.opname in _LOOK_UPS:
                found[instruction.argval] = None
            elif instruction.opname == "IMPORT_NAME":
                level, parts = (loaded.argval for loaded in before[-2:])
                imports[Import(level, instruction.argval, parts or ())] = None
            before = [*before[-1:], instruction]
    return CodeReferences(tuple(found), tuple(imports), frozenset(names))


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """``code`` and all code in it: lambdas, comprehensions, functions, class bodies."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def is_users_function(function: types.FunctionType) -> bool:
    """Whether no package brought its code; code without a file (typed in, executed from a text) is where its globals are."""
    filename = function.__code__.co_filename
    if not filename.startswith("<"):
        return is_users_file(filename)
    return not filename.startswith("<frozen") and is_users_name(function.__globals__.get("__name__"))


def is_users_name(module: str | None) -> bool:
    """Whether the module of this name is the user's; one that is not there is."""
    found = sys.modules.get(module or "")
    return found is None or is_users_module(found)


def is_users_module(module: types.ModuleType) -> bool:
    """Whether no package, nor Python, brought ``module``. One without a file belongs to the package that it is in."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str) and Path(file).is_absolute():  # torch.ops says "_ops.py"
        return is_users_file(file)
    name = module.__name__
    package = sys.modules.get(name.partition(".")[0])
    if package is not None and package is not module:
        return is_users_module(package)
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return name not in sys.builtin_module_names and origin not in ("built-in", "frozen")


def imported(statement: Import, package: str | None) -> types.ModuleType | None:
    """The user's module that an import statement would give, where it is loaded; None for a package's.

    Raises LookupError where it, or what is imported from it, is the user's and not loaded: nobody knows what that holds.
    """
    full = resolve_name("." * statement.level + statement.name, package or "") if statement.level else statement.name
    top = full.partition(".")[0]
    if top in sys.modules:
        users = is_users_module(sys.modules[top])
    else:
        spec = find_spec(top)
        users = spec is None or (spec.origin not in ("built-in", "frozen") and is_users_file(spec.origin or ""))
    if not users:
        return None
    module = sys.modules.get(full)
    if module is None or not all(hasattr(module, name) for name in statement.names):
        raise LookupError(full)
    return module
