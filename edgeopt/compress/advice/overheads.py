"""What a model's file takes besides its numbers: operators, names of layers, scales and zero points.

Read from the artifacts of eight models (CNNs, recurrent ones, transformers) in every format, and rounded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgeopt.capture.operator_kinds import PASS_THROUGH, RECURRENT, kind_of, value_of
from edgeopt.core import Format

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class File:
    """Bytes. ``operator``: each; ``integer``: more where it is computed in integers, ``moved`` where it only moves them;
    ``convolution``: more for the attributes of one.

    ``tensor``: each stored one; ``channel``: of a quantized weight, its scale, zero point and, with integer biases, theirs.
    ``names``: how often an operator's place in the model is written out; a stored tensor has it once, where it is not 0.
    """

    base: int
    operator: int
    integer: int
    moved: int
    convolution: int
    tensor: int
    channel: int
    names: float = 0.0


FILES: dict[Format, File] = {
    "onnx": File(base=1_000, operator=150, integer=440, moved=290, convolution=0, tensor=0, channel=12),
    "tflite": File(base=2_000, operator=105, integer=40, moved=40, convolution=0, tensor=50, channel=24, names=1.3),
    "coreml": File(base=2_000, operator=420, integer=500, moved=250, convolution=650, tensor=64, channel=6),
    "pt2": File(base=20_000, operator=1_500, integer=0, moved=0, convolution=0, tensor=0, channel=12),
}
UNROLLED: dict[Any, int] = {aten.gru.input: 19, aten.lstm.input: 16, aten.rnn_tanh.input: 6, aten.rnn_relu.input: 6}
"""Operators of one time step of a recurrent layer in TFLite, where it is unrolled."""
CELL = 2_000
"""Of one recurrent layer in Core ML that becomes an operator for both directions."""
STEP, DIRECTION, LOOP = 3_130, 3_000, 7_500
"""Of a GRU's layer: of each step that is written out, of each direction besides, and of each direction's part in a loop."""
LONGEST_WRITTEN_OUT, TURN = 128, 16
"""Steps, as edgeopt.converters.coreml.recurrent has them: of a layer that becomes no loop, and of a loop's turn."""
FEWEST_NUMBERS = 2_048
"""Smaller weights stay floats where weights alone are quantized, as coremltools leaves them."""
LAYER_NORM = 9
"""Operators that make up one in TFLite."""


def operator_bytes(node: Node, form: Format, *, integer: bool, mixed: bool) -> int:
    """Bytes of the operators that ``node`` becomes. ``mixed``: the artifact has integer operators besides float ones."""
    file, kind = FILES[form], kind_of(node)
    if node.target in RECURRENT:
        return _recurrent_bytes(node, form)
    more = (file.moved if kind in PASS_THROUGH else file.integer) if integer else 0
    more += file.convolution if kind in ("conv", "conv_transpose") else 0
    count = _count(node) if form == "tflite" else 1
    count += 2 if form == "tflite" and mixed and not integer else 0  # QUANTIZE and DEQUANTIZE around it
    return round(count * (file.operator + file.names * name_length(node)) + more)


def tensor_bytes(reader: Node, form: Format, *, halved: bool) -> int:
    """Bytes beside its numbers of a stored tensor that ``reader`` reads; ``halved``: kept in float16."""
    file, name = FILES[form], name_length(reader) if FILES[form].names else 0
    dequantized = file.operator + name if halved and form == "tflite" else 0  # an operator of its own makes float32 of it
    return file.tensor + name + dequantized


def name_length(node: Node) -> int:
    """Of the classes and names of the modules around ``node``, as TFLite's tensors are called."""
    around = (node.meta.get("nn_module_stack") or {}).values()
    return sum(len(_class(kind)) + len(path.rpartition(".")[2]) + 2 for path, kind in around)


def _class(kind: str | type) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _count(node: Node) -> int:
    kind = kind_of(node)
    if kind == "linear":  # its operator takes matrices only: others are reshaped
        return 1 if value_of(node).ndim == 2 else 2
    return LAYER_NORM if kind == "layer_norm" else 1


def _recurrent_bytes(node: Node, form: Format) -> int:
    weights = next(list(arg) for arg in reversed(node.args) if isinstance(arg, list | tuple))
    hidden = [int(value_of(weight).shape[1]) for weight in weights if value_of(weight).ndim == 2][1::2]
    values = value_of(node.args[0])  # type: ignore[arg-type]
    steps = int(values.shape[1 if node.args[-1] and values.ndim == 3 else 0])  # the last argument is batch_first
    if form == "tflite":
        return UNROLLED[node.target] * steps * len(hidden) * (FILES[form].operator + name_length(node))
    if form != "coreml":
        return FILES[form].operator * len(hidden)
    layers = len(hidden) // (2 if node.args[-2] else 1)
    if node.target is not aten.gru.input:
        merged = 2 * sum(weight.numel() // 2 for weight in map(value_of, weights) if weight.ndim == 1)  # both biases into one
        return CELL * layers - int(merged)
    looped = steps > LONGEST_WRITTEN_OUT
    return layers * STEP * (TURN if looped else steps) + (LOOP if looped else DIRECTION) * len(hidden)
