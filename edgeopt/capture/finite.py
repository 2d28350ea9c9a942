"""NaN and infinity: refused where they show a broken model, with what holds or makes the first of them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeopt.capture.layers import layer_of
from edgeopt.capture.masks import masked_outputs
from edgeopt.errors import NotFiniteError


def refuse_not_finite_state(module: nn.Module) -> None:
    """Raises NotFiniteError where a parameter holds NaN or infinity, or a buffer NaN."""
    refuse_not_finite(module.named_parameters(), "parameter")
    with_nan = ((name, value) for name, value in module.named_buffers() if bool(torch.isnan(value).any()))
    refuse_not_finite(with_nan, "buffer")  # infinity is allowed there: masks are buffers


def refuse_not_finite(values: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Raises NotFiniteError for the first of the named float tensors that holds NaN or infinity."""
    for name, value in values:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise NotFiniteError(
                f"{what} {name} holds {count} NaN or infinite value{'s' if count > 1 else ''}",
                fix="such a model cannot be quantized or compared: find the training step or file that broke it",
            )


def refuse_not_finite_outputs(
    program: ExportedProgram, names: tuple[str, ...], outputs: tuple[Tensor, ...], example: tuple[Tensor, ...]
) -> None:
    """Raises NotFiniteError with the first layer that makes a NaN, or for an infinity that no mask of the model's put there."""
    if all(bool(torch.isfinite(value).all()) for value in outputs if value.is_floating_point()):
        return
    masked = masked_outputs(program.module(check_guards=False))
    bad = [
        name
        for index, (name, value) in enumerate(zip(names, outputs, strict=True))
        if value.is_floating_point() and not bool((~torch.isnan(value) if index in masked else torch.isfinite(value)).all())
    ]
    if not bad:
        return
    found = _first_nan(program, example)
    raise NotFiniteError(
        f"output {', '.join(bad)} holds NaN or infinity on the example inputs",
        why=f"the first NaN comes from layer {found}" if found else "an infinity reaches the output",
        fix="check the weights and the input's normalisation: the float model itself is broken there",
    )


def _first_nan(program: ExportedProgram, example: tuple[Tensor, ...]) -> str:
    found: list[str] = []

    class Finder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any()):
                found.append(layer_of(node))
            return value

    with torch.no_grad():
        Finder(program.module(check_guards=False)).run(*example)
    return found[0] if found else ""
