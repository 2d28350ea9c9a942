"""The end of a classifier."""

from typing import Any

import numpy as np
from torch import Tensor

from edgeopt.mil.operator import operator


@operator("classify", exact=True)
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, Tensor]:
    """The most probable of ``classes`` (text or int64) and the probabilities in their order, [number of classes]."""
    flat = probabilities.reshape(-1)
    return np.asarray(classes)[int(flat.argmax())], flat
