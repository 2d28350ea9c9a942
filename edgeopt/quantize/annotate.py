"""Turns the planner's decisions into PT2E annotations and runs PT2E: from the captured program to one with Q/DQ nodes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.observer import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from edgeopt.capture.operator_kinds import is_float
from edgeopt.core import QuantScheme
from edgeopt.quantize.graph import Op
from edgeopt.quantize.opening import opened
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.range_search import searched
from edgeopt.quantize.ranges import QParams
from edgeopt.quantize.rounding import WEIGHT_EPS, Moments, nearest
from edgeopt.quantize.statistics import Statistics, attribute
from edgeopt.targets.schema import TargetProfile


class ProfileQuantizer(Quantizer):  # type: ignore[misc]
    """The PT2E quantizer of one target: which values, decided by the planner; how, by the scheme."""

    def __init__(
        self,
        statistics: Statistics,
        profile: TargetProfile,
        scheme: QuantScheme,
        io_float: bool,
        kept: Mapping[str, str] | None = None,
        samples: Sequence[tuple[Tensor, ...]] = (),
    ) -> None:
        """``samples``: by which ranges are searched; none leave those of the observer."""
        self._arguments = (statistics, profile, scheme, io_float, kept)
        self._samples = samples
        self._scheme = scheme
        self.decided: Quantization | None = None

    def annotate(self, model: GraphModule) -> GraphModule:
        """Writes ``quantization_annotation`` on every node that the plan computes in integers."""
        self.decided = self._searched(model, decide(model, *self._arguments))
        for op in self.decided.integer:
            self._annotate(op, self.decided)
        for node in self.decided.outputs:
            annotation = node.meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))
            annotation.output_qspec = self._activation(self.decided.scales.values[node])
        return model

    def _searched(self, model: GraphModule, decided: Quantization) -> Quantization:
        if not self._samples:
            return decided
        statistics, profile, scheme, *_ = self._arguments
        values = (decided.integer, decided.outputs, decided.scales, decided.ranked)
        found = searched(model, *values, statistics, profile, scheme, self._samples)
        changed, tried, count = found.changed, found.tried, found.samples
        return replace(decided, scales=found.scales, ranges_changed=changed, ranges_tried=tried, range_samples=count)

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: the planner only annotates what the profile lists."""

    def _annotate(self, op: Op, decided: Quantization) -> None:
        inputs: dict[Node, Any] = {operand: self._activation(decided.scales.of(op, operand)) for operand in op.operands}
        if op.weight is not None:
            inputs[op.weight] = weight_spec(self._scheme, channel_axis(op))
            bias = op.head.args[2] if len(op.head.args) > 2 else None
            if isinstance(bias, Node) and self._scheme.bias == "int32":
                inputs[bias] = self._bias(op)
        op.carrier.meta["quantization_annotation"] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        if op.output is not op.carrier:
            op.output.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)

    def _activation(self, parameters: QParams) -> FixedQParamsQuantizationSpec:
        return FixedQParamsQuantizationSpec(
            dtype=getattr(torch, self._scheme.activation),
            scale=parameters.scale,
            zero_point=parameters.zero_point,
            quant_min=parameters.low,
            quant_max=parameters.high,
            qscheme=torch.per_tensor_symmetric if self._scheme.symmetric else torch.per_tensor_affine,
        )

    def _bias(self, op: Op) -> DerivedQuantizationSpec:
        """int32 with scale(input) * scale(weight) per output channel and zero point 0: what the accumulator holds."""
        return DerivedQuantizationSpec(
            derived_from=[(op.operands[0], op.head), (op.weight, op.head)],
            derive_qparams_fn=_accumulator_qparams,
            dtype=torch.int32,
            quant_min=-(2**31),
            quant_max=2**31 - 1,
            ch_axis=0,
            qscheme=torch.per_channel_symmetric if self._scheme.per_channel else torch.per_tensor_symmetric,
        )


def weight_spec(scheme: QuantScheme, axis: int) -> QuantizationSpec:
    """int8 (or 7 bits) by the greatest magnitude, along ``axis`` or for the whole weight."""
    bound = weight_bound(scheme)
    observer = PerChannelMinMaxObserver if scheme.per_channel else MinMaxObserver
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-bound,
        quant_max=bound,
        ch_axis=axis if scheme.per_channel else None,
        qscheme=torch.per_channel_symmetric if scheme.per_channel else torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=observer.with_args(eps=WEIGHT_EPS),
    )


def weight_bound(scheme: QuantScheme) -> int:
    """The greatest integer of a weight, and the least with its sign turned."""
    return 63 if scheme.reduce_range else 127


def _accumulator_qparams(observers: list[Any]) -> tuple[Tensor, Tensor]:
    activation, weight = (observer.calculate_qparams() for observer in observers)
    scale = activation[0].to(torch.float32) * weight[0].to(torch.float32)
    return scale, torch.zeros_like(scale, dtype=torch.int64)


def channel_axis(op: Op) -> int:
    """The output-channel axis of a weight: 1 for transposed convolutions ([in, out / groups, ...]), 0 otherwise."""
    return 1 if op.kind == "conv_transpose" else 0


def quantize(
    program: ExportedProgram,
    example: tuple[Tensor, ...],
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
    io_float: bool,
    fold: bool,
    moments: Moments | None = None,
    kept: Mapping[str, str] | None = None,
    samples: Sequence[tuple[Tensor, ...]] = (),
) -> tuple[ExportedProgram, Quantization]:
    """``program`` with quantize and dequantize nodes for one target, and what was decided.

    Weights are rounded against data where ``moments`` of their layers' inputs are given, and else to the nearest.
    ``kept``: see :func:`edgeopt.quantize.planner.decide`. Ranges are searched by ``samples``, flat inputs, where there are any.

    Weights are stored as integers with ``fold``; without it they stay floats behind their quantize node, for a format that
    folds them itself.
    """
    module, statistics = opened(program.module(check_guards=False), statistics, profile)
    quantizer = ProfileQuantizer(statistics, profile, scheme, io_float, kept, samples)
    one_bias_each(module)
    with torch.no_grad():
        prepared = prepare_pt2e(module, quantizer)
        assert quantizer.decided is not None
        decided = replace(quantizer.decided, rounded=round_weights(prepared, quantizer.decided, scheme, moments or Moments()))
        settle_last_weights(prepared, decided, scheme)
        prepared(*example)  # weights are observed here; activations carry fixed parameters
        converted = convert_pt2e(prepared, fold_quantize=fold)
        share_quantize_nodes(converted)
        if not fold:
            store_tables(converted)
            keep_apart(converted, {node.name for node in decided.apart})
            keep_float(converted, {node.name for node in decided.float_layers})
        exported = torch.export.export(converted, example, strict=False)
    return exported, decided


def round_weights(prepared: GraphModule, decided: Quantization, scheme: QuantScheme, moments: Moments) -> int:
    """Puts weights on their grids where their layers are computed in integers; how many of these are not the nearest."""
    count = 0
    for op in decided.integer:
        found = rounded_weight(prepared, op, scheme, moments)
        if op.weight is not None and found is not None:
            _put(prepared, op.weight, found)
            count += 1
    return count


def rounded_weight(module: GraphModule, op: Op, scheme: QuantScheme, moments: Moments) -> Tensor | None:
    """The weight of ``op``, float32, rounded against data; None where the nearest is as good, or nothing is known."""
    if op.weight is None or channel_axis(op):
        return None
    weight = attribute(module, str(op.weight.target)).detach()
    return moments.rounded(op.head.name, weight, weight_bound(scheme), scheme.per_channel)


def settle_last_weights(prepared: GraphModule, decided: Quantization, scheme: QuantScheme) -> None:
    """Puts the weights of layers that give floats on their grids, where they are not: litert-torch drops their Q/DQ."""
    for op in decided.integer:
        if op.weight is None or channel_axis(op) or op.output in decided.outputs:
            continue
        weight = attribute(prepared, str(op.weight.target)).detach()
        _put(prepared, op.weight, nearest(weight, weight_bound(scheme), scheme.per_channel))


def _put(prepared: GraphModule, stored: Node, weight: Tensor) -> None:
    """``weight`` in the place of what is stored there; the program's own tensor stays as it is."""
    path, _, name = str(stored.target).rpartition(".")
    setattr(prepared.get_submodule(path), name, torch.nn.Parameter(weight, requires_grad=False))


def one_bias_each(module: GraphModule) -> None:
    """A bias that several calls read (a layer called twice, a tied one) is read by each on its own.

    Its integers count in steps of input times weight, and every input has a scale of its own: kernels take that for granted.
    """
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        for user in [user for user in node.users if len(user.args) > 2 and user.args[2] is node][1:]:
            with module.graph.inserting_before(user):
                own = module.graph.get_attr(str(node.target))
            own.meta = dict(node.meta)
            user.update_arg(2, own)


def keep_apart(module: GraphModule, names: Collection[str]) -> None:
    """Two changes of sign before every operand of the operators called ``names``, and between two scales of one value.

    litert-torch's quantizer carries a scale from an operand through concatenations and the like, whether they are annotated
    or not, and takes a second scale of one value for the first. It stops at a product, and changes of sign are exact.
    """
    decomposed = torch.ops.quantized_decomposed
    quantize_op, dequantize_op = decomposed.quantize_per_tensor.default, decomposed.dequantize_per_tensor.default
    for node in list(module.graph.nodes):
        requantized = node.target is quantize_op and getattr(node.args[0], "target", None) is dequantize_op
        if not requantized and node.name not in names:
            continue
        for operand in node.all_input_nodes:
            if operand.target is dequantize_op or (operand.op == "call_function" and is_float(operand)):
                with module.graph.inserting_before(node):
                    negative = module.graph.call_function(torch.ops.aten.neg.default, (operand,))
                    same = module.graph.call_function(torch.ops.aten.neg.default, (negative,))
                node.replace_input_with(operand, same)
    module.recompile()


def keep_float(module: GraphModule, names: Collection[str]) -> None:
    """Sign times magnitude between each of the values called ``names`` and what quantizes it, which leaves it as it is.

    litert-torch takes a layer with float weights between a dequantize and a quantize node for a forgotten one and quantizes it.
    What stands before the layer does not stop it (two changes of sign, a factor and its inverse in the weight are taken away,
    and other operators quantized too); a sign behind it does.
    """
    aten, quantize_op = torch.ops.aten, torch.ops.quantized_decomposed.quantize_per_tensor.default
    for node in [node for node in module.graph.nodes if node.name in names]:
        readers = [user for user in node.users if user.target is quantize_op]
        if not readers:
            continue
        with module.graph.inserting_before(readers[0]):
            sign, size = (module.graph.call_function(target, (node,)) for target in (aten.sign.default, aten.abs.default))
            same = module.graph.call_function(aten.mul.Tensor, (sign, size))
        for reader in readers:
            reader.replace_input_with(node, same)
    module.recompile()


def store_tables(module: GraphModule) -> None:
    """Embedding tables become int8 constants whose rows are dequantized after the look-up.

    litert-torch folds the weights of convolutions and products only: a table would stay float, four times as large.
    """
    aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
    for node in list(module.graph.nodes):
        if node.target is not aten.embedding.default or node.args[0].target is not decomposed.dequantize_per_tensor.default:
            continue
        quantize_node = node.args[0].args[0]
        if quantize_node.op != "call_function" or quantize_node.args[0].op != "get_attr":
            continue
        scale, zero_point = quantize_node.args[1:3]
        table = quantize_node.target(attribute(module, str(quantize_node.args[0].target)), *quantize_node.args[1:])
        module.register_buffer(f"{node.name}_table", table)
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(f"{node.name}_table")
            rows = module.graph.call_function(aten.embedding.default, (stored, *node.args[1:]))
            floats = module.graph.call_function(aten.to.dtype, (rows, torch.float32))
            centered = module.graph.call_function(aten.sub.Tensor, (floats, float(zero_point)))
            result = module.graph.call_function(aten.mul.Tensor, (centered, scale))
        node.replace_all_uses_with(result)
    module.graph.eliminate_dead_code()
    module.recompile()


def share_quantize_nodes(module: GraphModule) -> None:
    """One quantize node per value: users of a float value each brought their own, all alike."""
    seen: dict[tuple[Any, ...], Node] = {}
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.quantized_decomposed.quantize_per_tensor.default:
            continue
        first = seen.setdefault(tuple(node.args), node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)
    module.recompile()
