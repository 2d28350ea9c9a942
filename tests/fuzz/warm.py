"""Half of what it takes to capture a small network is to list torch's operators anew: here that is done once per process."""

import functools
from importlib import import_module
from typing import Any

_USERS = ("torch._export.utils", "torch.export.exported_program", "torch._decomp")


def programs() -> None:
    """The list of composite operators, which grows only where somebody registers one, is kept for every decomposition."""
    utils: Any = import_module("torch._export.utils")
    import_module("edgeopt.converters.warm").programs()
    kept = functools.cache(utils._collect_all_valid_cia_ops)
    for name in _USERS:
        module: Any = import_module(name)
        if hasattr(module, "_collect_all_valid_cia_ops"):
            module._collect_all_valid_cia_ops = kept
    utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
