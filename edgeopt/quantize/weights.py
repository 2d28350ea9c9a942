"""int8 weights beside float activations: one scale for each output channel, no calibration."""

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer

from edgeopt.capture.operator_kinds import RECURRENT, WEIGHTED, is_float, kind_of, value_of
from edgeopt.core import QuantScheme
from edgeopt.quantize.annotate import weight_spec
from edgeopt.quantize.shares import Left, left

FEWEST_NUMBERS = 2048
"""Smaller weights stay floats, as coremltools leaves them (weight_threshold of OpLinearQuantizerConfig): they take no room."""


class WeightQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates the stored weights of convolutions and linear layers, and nothing else."""

    def __init__(self, scheme: QuantScheme) -> None:
        self._scheme = scheme

    def annotate(self, model: GraphModule) -> GraphModule:
        """Writes ``quantization_annotation`` on every layer whose weight can be integers."""
        for node in _weighted(model):
            if _kept_reason(node.args[1]):
                continue
            weight = weight_spec(self._scheme, 1 if kind_of(node) == "conv_transpose" else 0)
            node.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map={node.args[1]: weight}, _annotated=True
            )
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: only stored weights are annotated."""


def quantize_weights(
    program: ExportedProgram, example: tuple[Tensor, ...], scheme: QuantScheme
) -> tuple[ExportedProgram, Left]:
    """``program`` with int8 weights behind dequantize nodes, and what stays in float."""
    module = program.module(check_guards=False)
    kept = left_float(module)
    with torch.no_grad():
        prepared = prepare_pt2e(module, WeightQuantizer(scheme))
        prepared(*example)
        exported = torch.export.export(convert_pt2e(prepared, fold_quantize=True), example, strict=False)
    return exported, kept


def left_float(module: GraphModule) -> Left:
    """Weights that :func:`quantize_weights` leaves in float, and why."""
    weighted = [(node, _kept_reason(node.args[1])) for node in _weighted(module)]
    others = [
        (node, "only weights of convolutions and linear layers become integers")
        for node in module.graph.nodes
        if node.target in RECURRENT or kind_of(node) == "embedding"
    ]
    return left(module.graph, [(node, reason) for node, reason in (*weighted, *others) if reason])


def _weighted(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "call_function" and kind_of(node) in WEIGHTED]


def _kept_reason(weight: Any) -> str:
    """Why a weight stays float; "" where it becomes integers."""
    if not isinstance(weight, Node) or weight.op != "get_attr" or not is_float(weight):
        return "its weight is computed at run time, not stored"
    count = int(value_of(weight).numel())
    return f"{count:,} weights: below {FEWEST_NUMBERS:,}" if count < FEWEST_NUMBERS else ""
