"""Composite operators are replaced around each decomposition, without what torch does anew for each of thousands of keys.

torch registers a handful of functions for each composite operator under some twenty dispatch keys, through a method that
builds its own annotations anew at each call. That was a third of a small network's capture. Here the same functions go
straight into the same tables, and the operators are looked up once: in processes where none is registered any more.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from edgeopt.support.patches.patch import Patch, digest_of

_MODULE = "torch.export.exported_program"
_REGISTERING = "8173bd205b783783"
"""Digest of what is not called any more, but has to be what is done here."""


def _without_registering(original: Any) -> Any:
    """Raises AttributeError where torch registers in another way."""
    operators: Any = import_module("torch._ops")
    if digest_of(operators.OperatorBase.py_impl) != _REGISTERING:
        raise AttributeError("OperatorBase.py_impl has changed")
    return contextmanager(functools.partial(_overridden, import_module(_MODULE)))


def _overridden(torch_s: Any, wanted: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Inside, a composite operator computes what ``wanted`` says. ``torch_s``: the module with the function it stands for."""
    before = {}
    for operator, function in wanted.items():
        before[operator] = operator.py_kernels.copy()
        _register(torch_s, operator, function)
    try:
        yield
    finally:
        for operator, kernels in before.items():
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()
            torch_s._deregister_op_impl(operator)


def _register(torch_s: Any, operator: Any, function: Callable[..., Any]) -> None:
    kernels = operator.py_kernels
    refused = torch_s.autograd_not_implemented(operator, deferred_error=True)
    for key in torch_s._AUTOGRAD_ALIAS_BACKEND_KEYS_TO_OVERRIDE:
        kernels.setdefault(key, refused)
    own = torch_s._get_decomp_for_cia(operator)
    kernels.pop(torch_s.torch._C.DispatchKey.CompositeImplicitAutograd, None)
    kernels[torch_s.torch._C.DispatchKey.CompositeImplicitAutograd] = function
    if not torch_s._is_op_registered_to_fake_rule(operator):
        torch_s.register_op_impl(operator)(functools.partial(_in_fake_mode, original_callable=own))
    for key in torch_s._BACKEND_KEYS_TO_OVERRIDE:
        kernels.setdefault(key, own)
    operator._dispatch_cache.clear()


def _in_fake_mode(mode: Any, operator: Any, /, *args: Any, original_callable: Callable[..., Any], **kwargs: Any) -> Any:
    with mode:
        return original_callable(*args, **kwargs)


PATCHES = (
    Patch(
        version="torch 2.13",
        module=_MODULE,
        attribute="_override_composite_implicit_decomp",
        digest="4422dc79d0792af7",
        faster=_without_registering,
    ),
    Patch(
        version="torch 2.13",
        module="torch._export.utils",
        attribute="_materialize_cpp_cia_ops",  # looks each of a thousand operators up, so that torch.ops holds it
        digest="51472f6b4e2c3782",
        faster=functools.cache,
    ),
)
