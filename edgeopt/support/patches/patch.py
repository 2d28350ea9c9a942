"""One function of a library, by the digest of its source, and what is put in its place."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """``attribute`` (dotted, below ``module``) as ``version`` has it, and ``faster``, which makes the replacement from it."""

    version: str
    module: str
    attribute: str
    digest: str
    """The first 16 hexadecimal digits of the sha256 of the function's source."""
    faster: Callable[[Any], Any]
    """Raises AttributeError where something else that it stands on is not what it was."""

    def holder(self) -> Any:
        """What the function is an attribute of. Raises ImportError or AttributeError."""
        return functools.reduce(getattr, self.attribute.split(".")[:-1], import_module(self.module))

    @property
    def name(self) -> str:
        """The attribute's own name."""
        return self.attribute.rpartition(".")[2]


@functools.cache
def digest_of(function: Any) -> str:
    """As :attr:`Patch.digest`. Raises OSError or TypeError where there is no source."""
    return sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def kept_original(function: Any) -> Any:
    """The library's own function of one that was put in; else ``function`` itself."""
    return getattr(_plain(function), "_edgeopt_original", function)


def put_in(patches: Iterable[Patch]) -> None:
    """For good, in this process: for workers, in which nothing but conversions and their proofs runs."""
    for patch in patches:
        _put(patch)


@contextmanager
def in_place(patches: Iterable[Patch]) -> Iterator[None]:
    """Inside only: the main process is the user's own."""
    undo = [undone for patch in patches for undone in _put(patch)]
    try:
        yield
    finally:
        for holder, name, original in reversed(undo):
            setattr(holder, name, original)


def read_ahead(patches: Iterable[Patch]) -> None:
    """Reads the sources that :func:`in_place` compares: processes that are forked from this one need not."""
    with in_place(patches):
        pass


def _put(patch: Patch) -> list[tuple[Any, str, Any]]:
    """Where ``patch`` was put, each with what was there."""
    try:
        holder = patch.holder()
        # Not getattr: of a class method that would be bound.
        original = vars(holder)[patch.name]
        if digest_of(kept_original(original)) != patch.digest:
            log.warning("%s.%s is not that of %s: conversions take longer", patch.module, patch.attribute, patch.version)
            return []
        if original is not kept_original(original):
            return []  # it is there already
        replacement = patch.faster(original)
    except (ImportError, AttributeError, KeyError, OSError, TypeError) as error:
        log.warning("%s has no %s.%s: conversions take longer (%s)", patch.version, patch.module, patch.attribute, error)
        return []
    _plain(replacement)._edgeopt_original = original
    places = [holder] if isinstance(holder, type) else [*_users(holder, patch.name, original)]
    for place in places:
        setattr(place, patch.name, replacement)
    return [(place, patch.name, original) for place in places]


def _plain(function: Any) -> Any:
    return getattr(function, "__func__", function)


def _users(holder: ModuleType, name: str, original: Any) -> Iterator[ModuleType]:
    """Every module of the library that has the function under its name."""
    library = holder.__name__.partition(".")[0]
    for module in list(sys.modules.values()):
        theirs = isinstance(module, ModuleType) and module.__name__.partition(".")[0] == library
        if theirs and vars(module).get(name) is original:
            yield module


def with_globals(function: FunctionType, **others: Any) -> FunctionType:
    """``function`` with other globals of these names."""
    known = {**function.__globals__, **others}
    made = FunctionType(function.__code__, known, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
