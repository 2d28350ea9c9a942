"""Core ML packages on any machine: ``edgeopt.coreml.load("model.mlpackage")(x=array)`` gives a dict of arrays.

Core ML itself predicts on Apple systems only. This evaluates the saved package's operations with PyTorch, and
tells where float16 overflows:

    model = edgeopt.coreml.load("model.mlpackage")
    outputs, lost = model.examine(x=array)
"""

from edgeopt.mil.evaluator import Evaluator, load
from edgeopt.mil.precision import LostRange, Precision

__all__ = ["Evaluator", "LostRange", "Precision", "load"]
