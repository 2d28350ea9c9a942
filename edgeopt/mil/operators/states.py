"""States (iOS 18): tensors that a program keeps from one call to the next."""

from dataclasses import dataclass

from torch import Tensor

from edgeopt.mil.operator import operator


@dataclass(slots=True)
class State:
    """What a state holds now. Whoever writes puts another tensor there."""

    value: Tensor


@operator("read_state", exact=True, half=True)
def read_state(input: State) -> Tensor:
    """What ``input`` holds."""
    return input.value


@operator("coreml_update_state", exact=True, half=True)
def coreml_update_state(state: State, value: Tensor) -> Tensor:
    """Puts ``value`` into ``state`` and gives it back. Packages say write_state and read_state; coremltools joins them."""
    state.value = value
    return value
