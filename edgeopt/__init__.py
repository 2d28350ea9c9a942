"""edgeopt: from a trained PyTorch model to proven artifacts for real devices.

    import edgeopt
    bundle = edgeopt.export(module, example_inputs, targets=["arm-xnnpack"], out="build/mine")

Nothing heavy is imported until it is used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeopt.api import blame, export
    from edgeopt.bundle.bundle import Bundle
    from edgeopt.errors import EdgeoptError
    from edgeopt.model.model import Model, placeholder
    from edgeopt.model.references import load

__version__ = "0.1.0"
__all__ = ["Bundle", "EdgeoptError", "Model", "__version__", "blame", "export", "load", "placeholder"]

# ONNX Runtime keeps a number of the device and a queue of uploads in the home of whoever loads it (1.29 and later): not in
# this process, nor in one that edgeopt starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "blame": "edgeopt.api",
    "export": "edgeopt.api",
    "Bundle": "edgeopt.bundle.bundle",
    "EdgeoptError": "edgeopt.errors",
    "Model": "edgeopt.model.model",
    "load": "edgeopt.model.references",
    "placeholder": "edgeopt.model.model",
}


def __getattr__(name: str) -> Any:
    if name == "coreml":
        from edgeopt.support.extras import require

        require("coreml", "edgeopt.coreml cannot be used here")
        return import_module("edgeopt.coreml")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgeopt' has no attribute {name!r}")
