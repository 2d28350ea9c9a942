"""How much a ``.pt2`` archive may say there is: no more weights than it brings, no tensor and no graph beyond all use.

torch takes a weight without bytes for zeros, allocates what a graph's sizes say, and makes an object of each bracket of any
length of JSON (torch 2.13: ``export/pt2_archive/_package.py``, ``_export/serde/serialize.py``).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgeopt.model.input_text import LARGEST_INPUT

MOST_MEMBERS = 20_000
MOST_JSON = 1 << 27
MOST_BRACKETS = 2_000_000
"""In one member. A graph has some 60 for each node, and 4 kB, most of which says where in the user's code it is from."""
_SPREAD_BYTES = 1 << 26
"""A tensor may repeat what is in its record (``expand``) up to so much."""
_STRIDED = 7
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 34: 4, 35: 8}
"""By ``ScalarType`` of torch's ``_export/serde/schema.py``; the others are of one byte (float8)."""
_COUNTED = ("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.tri", "aten.one_hot", "aten.repeat_interleave")
"""Operators that make as many numbers as one of their arguments says."""


def is_much_json(content: bytes) -> bool:
    """Whether a member's text would take longer, or more memory, than a graph can need."""
    return len(content) > MOST_JSON or content.count(b"[") + content.count(b"{") > MOST_BRACKETS


def unfit_record(config: Any, folder: str, members: Mapping[str, bytes]) -> str:
    """Why a tensor of a ``model_weights_config.json`` is not what its record in ``folder`` holds; empty where all are."""
    for name, payload in config.get("config", {}).items():
        meta = payload.get("tensor_meta")
        if isinstance(meta, dict):
            why = _unfit(meta, len(members.get(f"{folder}/{payload.get('path_name')}", b"")))
            if why:
                return f"{name[:120]!r} {why}"
    return ""


def too_large(model: Any) -> str:
    """What a ``model.json`` says is larger than edgeopt takes; empty where nothing is. Sizes that vary are no numbers here."""
    for key, value, target in fields(model):
        if key in ("sizes", "as_ints", "as_sym_ints") and isinstance(value, list):
            sizes = [_number(size) for size in value]
            if math.prod(abs(size) for size in sizes if size is not None) > LARGEST_INPUT:
                return f"sizes of {str(sizes)[:120]}"
        elif key == "as_int" and isinstance(value, int) and value > LARGEST_INPUT and target.startswith(_COUNTED):
            return f"{target} of {value}"
    return ""


def _unfit(meta: Mapping[str, Any], given: int) -> str:
    sizes, strides = ([_number(size) for size in meta.get(key, ())] for key in ("sizes", "strides"))
    offset, layout = _number(meta.get("storage_offset", 0)), meta.get("layout", _STRIDED)
    kind = (meta.get("device") or {}).get("type")
    if kind == "meta" or layout != _STRIDED:
        return "has no numbers: it is on the device meta" if kind == "meta" else "is sparse"
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or any(number is None or number < 0 for number in numbers):
        return "has sizes that are no numbers"
    item = _ITEM_BYTES.get(meta.get("dtype", 0), 1)
    if 0 in sizes:
        return ""
    reach = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if reach * item > given:
        return f"has {given} bytes in the archive, and its sizes {sizes} take {reach * item}"
    if math.prod(sizes) * item > max(given, _SPREAD_BYTES):
        return f"has {given} bytes in the archive, and is spread over sizes of {sizes}"
    return ""


def _number(value: Any) -> Any:
    """An integer as it is or as ``{"as_int": N}``; None for any other."""
    if isinstance(value, dict):
        value = value.get("as_int")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fields(value: Any) -> Iterator[tuple[str, Any, str]]:
    """Every key and value below, in no order, and the operator whose they are, without its ``torch.ops.``."""
    waiting = [(value, "")]
    while waiting:
        value, target = waiting.pop()
        if isinstance(value, list):
            waiting += [(each, target) for each in value]
        elif isinstance(value, dict):
            named = value.get("target")
            target = named.removeprefix("torch.ops.") if isinstance(named, str) else target
            for key, each in value.items():
                yield key, each, target
                waiting.append((each, target))
