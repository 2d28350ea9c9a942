"""Core ML's graphs: what coremltools finds out anew after each change of them."""

import functools
from typing import Any

from edgeopt.support.patches.patch import Patch


def _upstream_in_one_walk(original: Any) -> Any:
    """After each of a hundred passes every value is told which values upstream may not be replaced: a sixth of a conversion.

    The same sets, without the dictionary and the list of inputs that are made for each value.
    """
    from coremltools.converters.mil.mil.var import InternalVar

    def _propagate_nonreplaceable_vars(self: Any) -> None:
        for op in self.operations:
            for block in op.blocks:
                _propagate_nonreplaceable_vars(block)
            for output in op.outputs or ():
                output._nonreplaceable_vars_upstream = _upstream(output, InternalVar)

    return _propagate_nonreplaceable_vars


def _upstream(output: Any, internal: type) -> set[Any]:
    op = output.op
    if op is None or op.op_type == "shape":
        return set()
    if op.op_type.startswith("constexpr_"):
        return {output}
    found: set[Any] = set()
    for value in op._input_vars.values():
        if value is None or isinstance(value, internal):
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            found |= one._nonreplaceable_vars_upstream
    return found


def _flattened(original: Any) -> Any:
    """Without a dictionary of the inputs in between."""
    from coremltools.converters.mil.mil.var import InternalVar

    def get_flattened_inputs(self: Any) -> list[Any]:
        found: list[Any] = []
        for value in self._input_vars.values():
            if isinstance(value, list | tuple):
                found.extend(value)
            elif value is not None and not isinstance(value, InternalVar):
                found.append(value)
        return found

    return get_flattened_inputs


def _asked_once(original: Any) -> Any:
    """What a type is does not change: types are classes, one for each dtype and shape."""
    known = functools.cache(original)

    def is_tensor(tensor_type: Any) -> bool:
        return bool(known(tensor_type) if isinstance(tensor_type, type) else original(tensor_type))

    return is_tensor


def _where_scopes_count(original: Any) -> Any:
    """A program is validated where scopes count, not after each of 90 passes: a fifth of a conversion.

    The backend validates whatever it serializes (coremltools/converters/mil/backend/mil/load.py): nothing broken gets out.
    """

    def validate(self: Any, check_essential_scope: bool = False) -> None:
        if check_essential_scope:
            original(self, check_essential_scope=True)

    return validate


_MIL = "coremltools.converters.mil.mil"

PATCHES = (
    Patch(
        version="coremltools 9.0",
        module=f"{_MIL}.block",
        attribute="Block._propagate_nonreplaceable_vars",
        digest="cb2a2fc0f0365468",
        faster=_upstream_in_one_walk,
    ),
    Patch(
        version="coremltools 9.0",
        module=f"{_MIL}.operation",
        attribute="Operation.get_flattened_inputs",
        digest="c60cbdb2fc0bdaf3",
        faster=_flattened,
    ),
    Patch(
        version="coremltools 9.0",
        module=f"{_MIL}.types.type_mapping",
        attribute="is_tensor",
        digest="0574ba94dd69b322",
        faster=_asked_once,
    ),
)

VALIDATED_ONCE = (
    Patch(
        version="coremltools 9.0",
        module=f"{_MIL}.program",
        attribute="Program.validate",
        digest="6272d10e561b2990",
        faster=_where_scopes_count,
    ),
)
"""For conversions of an exported program alone."""
