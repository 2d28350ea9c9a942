"""What conversions would build anew each time, built once in the process that they are forked from.

The caches below are set into torch's own modules. Each holds what a pure function returned: results stay what they are, and
where a later torch has moved the function, the log says so and the function is simply not cached.
"""

import functools
import logging
from importlib import import_module
from typing import Any

from edgeopt.support.patches import onnxscript_matching, put_in, read_ahead, torch_composites

log = logging.getLogger(__name__)

_TORCH = (
    "edgeopt.model.program_file",
    "torch.export._trace",
    "torch.export.pt2_archive._package",
    "torch._export.non_strict_utils",
    "torch._functorch.aot_autograd",
    "torch._inductor.codecache",
)
"""Modules that programs are read with, and that torch.export imports at its first use."""
_ONNX = ("onnxscript.optimizer", "onnxscript.rewriter", "torch.onnx._internal.exporter._compat")
_COMPOSITE = "_collect_all_valid_cia_ops"
_DECOMPOSING = ("torch._export.utils", "torch.export.exported_program", "torch._decomp")
_REGISTRATION = "torch.onnx._internal.exporter._registration"
_TORCHLIB = "get_torchlib_ops"


def programs() -> None:
    """For whatever reads and decomposes exported programs."""
    for module in _TORCH:
        import_module(module)
    composite_operators()
    from edgeopt.support.patches import torch_archives, torch_graphs, torch_provenance

    put_in((*torch_archives.PATCHES, *torch_graphs.PATCHES, *torch_provenance.PATCHES))


def composite_operators() -> None:
    """For decompositions: each one lists all of torch's composite operators anew, half of its time for a small network.

    The list grows only where somebody registers an operator: that must be over before the first decomposition.
    """
    put_in(torch_composites.PATCHES)
    users: list[Any] = [import_module(name) for name in _DECOMPOSING]
    original = getattr(users[0], _COMPOSITE, None)
    if original is None:
        log.warning("%s has changed: decompositions take longer", users[0].__name__)
        return
    kept = functools.cache(getattr(original, "__wrapped__", original))
    for module in users:
        if hasattr(module, _COMPOSITE):
            setattr(module, _COMPOSITE, kept)


def onnx() -> None:
    """For torch.onnx.export: its table of operators, half a second of work, depends on the opset alone."""
    from edgeopt.converters.onnx.converter import DEFAULT_OPSET

    for module in _ONNX:
        import_module(module)
    read_ahead(onnxscript_matching.PATCHES)
    registration: Any = import_module(_REGISTRATION)
    registry: Any = getattr(registration, "ONNXRegistry", None)
    functions: Any = getattr(registration, "onnxscript_apis", None)
    if not hasattr(registry, "from_torchlib") or not hasattr(functions, _TORCHLIB):
        log.warning("%s has changed: conversions to ONNX start slower", _REGISTRATION)
        return
    # Every opset chooses from the same functions: another one than the default reads their sources no second time.
    listed = functools.cache(getattr(functions, _TORCHLIB))
    setattr(functions, _TORCHLIB, listed)
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
    registry.from_torchlib(opset_version=DEFAULT_OPSET)


def coreml() -> None:
    """For coremltools, and for the evaluator that checks what it makes."""
    import_module("edgeopt.mil.evaluator")
    from edgeopt.support.patches import coremltools_graphs

    put_in(coremltools_graphs.PATCHES)
    read_ahead(coremltools_graphs.VALIDATED_ONCE)


def tflite() -> None:
    """For litert-torch."""
    from edgeopt.support.patches.litert_torch_export import exported_already

    read_ahead(exported_already(None))


def listed() -> None:
    """Last of all, where every library has registered its operators: children find them listed."""
    users: Any = import_module(_DECOMPOSING[0])
    if hasattr(users, _COMPOSITE):
        getattr(users, _COMPOSITE)()
