"""Programs written to and read from ``.pt2`` archives (torch/_export/serde)."""

import copy
import dataclasses
import functools
import pickle
import types
import typing
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any

from edgeopt.support.patches.patch import Patch, with_globals

Read = Callable[[Any], Any]


def _copied_by_pickle(original: Any) -> Any:
    """torch sorts a copy of what it writes, as a test. ``copy.deepcopy`` of a graph takes most of the time of saving it."""

    def deepcopy(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    return with_globals(original, copy=SimpleNamespace(**{**vars(copy), "deepcopy": deepcopy}))


def _known_fields(original: Any) -> Any:
    """Each of hundreds of thousands of values asks the dataclass anew which fields it has."""
    from torch._export.serde import union

    blank = functools.cache(lambda cls: {field.name: None for field in dataclasses.fields(cls)})
    tag: Any = union._UnionTag

    def create(cls: Any, /, **kwargs: Any) -> Any:
        if len(kwargs) != 1:
            raise AssertionError(f"expected exactly 1 kwarg, got {len(kwargs)}")
        made = cls(**{**blank(cls), **kwargs})
        made._type = tag.create(next(iter(kwargs)), cls)
        return made

    return classmethod(create)


def _checked_once(original: Any) -> Any:
    """The names of fields are the class's, and so is what is wrong with them."""
    checked: set[type] = set()

    def once(self: Any) -> None:
        if type(self) not in checked:
            original(self)
            checked.add(type(self))

    return once


def _prepared_readers(original: Any) -> Any:
    """Each object of the JSON asks anew what its class's annotations mean: here each annotation is asked once."""
    from torch._export.serde import schema, union

    reader = _Readers(vars(schema), union._Union).of

    def _dict_to_dataclass(cls: Any, data: Any) -> Any:
        return reader(cls)(data)

    return _dict_to_dataclass


class _Readers:
    """For each annotation of torch's schema the function that makes its value from JSON, as ``_dict_to_dataclass`` does."""

    def __init__(self, schema: dict[str, Any], union: type) -> None:
        self._schema, self._union = schema, union
        self.of = functools.cache(self._made)

    def _made(self, cls: Any) -> Read:
        cls = self._resolved(cls)
        origin, arguments = typing.get_origin(cls), typing.get_args(cls)
        if isinstance(cls, str):
            raise AssertionError(f"Unresolved class type: '{cls}'.")
        if origin is Annotated:
            return self.of(cls.__origin__)
        if origin in (typing.Union, types.UnionType) and type(None) in arguments:
            return self._optional(arguments)
        if isinstance(cls, type) and issubclass(cls, self._union):
            return self._one_of(cls)
        if dataclasses.is_dataclass(cls):
            return self._object(cls)
        return self._plain(cls, arguments)

    def _resolved(self, cls: Any) -> Any:
        name = cls.__forward_arg__ if isinstance(cls, typing.ForwardRef) else cls
        return self._schema.get(name, name) if isinstance(name, str) else name

    def _optional(self, arguments: tuple[Any, ...]) -> Read:
        def read(data: Any) -> Any:
            if data is None:
                return None
            if len(arguments) != 2:
                raise AssertionError(f"expected 2 type args, got {len(arguments)}")
            return self.of(arguments[0])(data)

        return read

    def _one_of(self, cls: Any) -> Read:
        hints = typing.get_type_hints(cls, globalns=self._schema)

        def read(data: Any) -> Any:
            if not isinstance(data, dict):
                raise AssertionError(f"expected dict, got {type(data).__name__}")
            if len(data) != 1:
                raise AssertionError(f"expected dict with 1 key, got {len(data)}")
            ((name, value),) = data.items()
            if not isinstance(name, str):
                raise AssertionError(f"expected str key, got {type(name).__name__}")
            return cls.create(**{name: self.of(hints[name])(value)})

        return read

    def _object(self, cls: Any) -> Read:
        hints = typing.get_type_hints(cls, globalns=self._schema)
        names = [field.name for field in dataclasses.fields(cls)]

        def read(data: Any) -> Any:
            return cls(**{name: self.of(hints[name])(data[name]) for name in names if name in data})

        return read

    def _plain(self, cls: Any, arguments: tuple[Any, ...]) -> Read:
        def read(data: Any) -> Any:
            if isinstance(data, list):
                if not data:
                    return data
                each = self.of(arguments[0])
                return [each(value) for value in data]
            if isinstance(data, dict):
                each = self.of(arguments[1])
                return {key: each(value) for key, value in data.items()}
            return float(data) if cls is float else data

        return read


_SERIALIZE, _UNION = "torch._export.serde.serialize", "torch._export.serde.union"
_torch = partial(Patch, version="torch 2.13")

PATCHES = (
    _torch(module=_SERIALIZE, attribute="canonicalize", digest="424c27cc7d8f5daa", faster=_copied_by_pickle),
    _torch(module=_SERIALIZE, attribute="_dict_to_dataclass", digest="caf63dd8c94356b1", faster=_prepared_readers),
    _torch(module=_UNION, attribute="_Union.create", digest="3438ba3145476cd6", faster=_known_fields),
    _torch(module=_UNION, attribute="_Union.__post_init__", digest="a5f10dec83137a37", faster=_checked_once),
)
