"""Judges what a refusal says: it must name the user's layer or operator, and no library's inner workings."""

import re
from collections.abc import Sequence

from tests.fuzz.network import Network

INTERNALS = re.compile(
    r"Traceback|0x[0-9a-f]{6,}|site-packages|<class |FakeTensor|SymInt|NoneType|KeyError|AttributeError|IndexError"
    r"|AssertionError"
    r"|TypeError|UnboundLocalError|NotImplementedError|StopIteration|has no attribute|zip\(\) argument|MLIR|odml|vhlo"
    r"|error: failed|std::|\bnode\.args\b|torch\.fx|_VF\b|RuntimeError: |ValueError: |INTERNAL ASSERT"
    r"|unexpected keyword argument|positional argument|not enough values to unpack|_aten_\w+\(\)|out of range"
    r"|SymPy|operand #|%\d+ ="
)
"""What only somebody who knows a library's source can read."""


def fault_of_message(message: str, networks: Sequence[Network]) -> str:
    """``internals`` where the message shows a library's own, ``unnamed`` where it names nothing of the user's; else empty."""
    if INTERNALS.search(message):
        return "internals"
    what = message.partition("cause:")[0]
    if "no layer of this model can be computed in integers" in what:  # of the model as a whole, with a reason for each kind
        return ""
    steps = [step for network in networks for step in network.steps]
    names = {
        word for step in steps for word in (step.name, re.sub(r"\dd$", "", step.op), *_words(step.call), *_words(step.layer))
    }
    return "" if any(re.search(rf"(?<![a-z]){re.escape(name)}", what, re.IGNORECASE) for name in names) else "unnamed"


def _words(template: str) -> set[str]:
    """Names of functions in a call: ``torch.cdist({0})`` holds ``cdist``."""
    return {*re.findall(r"(?:\.|^)([A-Za-z_][A-Za-z_0-9]{2,})\(", template), *re.findall(r"nn\.([A-Z]\w+)", template)}
