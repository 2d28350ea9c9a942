"""Graphs as Python: torch compiles the code of a graph each time that one is made or changed, and calls few of them.

The text is written when it always was, from the graph as it is then; only Python's compiler waits until somebody asks for
``forward``. Of thirty such texts in a conversion to TFLite five are ever called.
"""

from importlib import import_module
from typing import Any

from edgeopt.support.patches.patch import Patch, digest_of

_MODULE = "torch.fx.graph_module"
_COMPILING = {"_method_from_src": "b832e6102b1d8987", "_exec_with_source": "3a1510761d07726e"}
"""Digests of what is not called any more, but has to be what is done here."""


class Deferred:
    """In the place of a class's ``forward``, until it is read for the first time: a descriptor that then becomes it."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._function: Any = None

    def __get__(self, instance: Any, owner: type) -> Any:
        if self._function is None:
            self._function = self._compiled()
        for holder in owner.__mro__:
            if vars(holder).get("forward") is self:
                holder.forward = self._function  # type: ignore[attr-defined]
        return self._function.__get__(instance, owner)


def _when_called(original: Any) -> Any:
    """Raises AttributeError where torch compiles in another way."""
    torch_s: Any = import_module(_MODULE)
    for name, digest in _COMPILING.items():
        if digest_of(getattr(torch_s, name)) != digest:
            raise AttributeError(f"{name} has changed")

    def made(src: str, globals: dict[str, Any], co_fields: dict[str, Any] | None = None) -> Any:
        found = globals.copy()
        key = torch_s._loader.cache(src, found, co_fields)  # names of texts count up: each gets the one that it always got

        def compiled() -> Any:
            exec(compile(src, key, "exec", dont_inherit=True), found)  # as torch does, of its own text
            return found.pop("forward")

        return Deferred(compiled)

    return made


PATCHES = (
    Patch(
        version="torch 2.13",
        module=_MODULE,
        attribute="_forward_from_src",
        digest="69e8956ea0efa582",
        faster=_when_called,
    ),
)
