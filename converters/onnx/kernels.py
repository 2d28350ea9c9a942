"""Whether ONNX Runtime's integer kernels on this CPU compute what a QDQ file says.

x86 CPUs without VNNI multiply 8-bit numbers in pairs and add each pair in 16 bits, where 255 * 127 twice does not fit: the
sum saturates (VPMADDUBSW; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, on U8S8). Neither
ARM nor an x86 CPU with VNNI does so. Which it is here is not read from the CPU's flags: the runtime is asked for one product
that would saturate.
"""

import functools
from pathlib import Path

import numpy as np

SAFE_WEIGHT = 63
"""Two products of 255 and this fit 16 bits: weights of 7 bits never saturate."""
REASON = "the kernels of this CPU add pairs of 8-bit products in 16 bits, where they saturate: it has no VNNI"
_LENGTH = 64


def difference(path: Path) -> str:
    """Why the kernels here compute something else than the file ``path`` says; "" where they do not."""
    signs = _integers(path)
    return REASON if any(saturates(signed) for signed in signs) else ""


def kernels() -> str:
    """What sets this CPU's kernels apart from others', for keys of caches."""
    return "".join(f"saturating {'s8' if signed else 'u8'} " for signed in (False, True) if saturates(signed)).strip()


def _integers(path: Path) -> set[bool]:
    """Whether activations are signed, for each type of activations that meets numbers beyond SAFE_WEIGHT in a product."""
    import onnx

    graph = onnx.load(str(path)).graph
    stored = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    weights = [onnx.numpy_helper.to_array(tensor).astype(np.int16) for tensor in stored if tensor.dims]
    wide = any(int(np.abs(weight).max(initial=0)) > SAFE_WEIGHT for weight in weights)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    given = {types.get(node.input[2]) for node in graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    found = {True} if onnx.TensorProto.INT8 in given else set()  # two signed activations may meet as well
    return found | {False} if wide and onnx.TensorProto.UINT8 in given else found


@functools.cache
def saturates(signed: bool) -> bool:
    """Whether ``signed`` or unsigned 8-bit activations times int8 weights saturate on this CPU, by a product that tells."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(_product(signed), options, providers=["CPUExecutionProvider"])
    greatest = 127 if signed else 255
    (found,) = session.run(None, {"x": np.full((1, _LENGTH), greatest, np.float32)})
    return bool(found[0, 0] < 0.99 * greatest * 127 * _LENGTH)


def _product(signed: bool) -> bytes:
    """A MatMul between Q/DQ nodes, which the runtime computes in integers: [1, 64] times [64, 32], every weight 127."""
    import onnx
    from onnx import TensorProto, helper

    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    numbers = [
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [127.0 * _LENGTH]),
        helper.make_tensor("zero", kind, [], [0]),
        helper.make_tensor("none", TensorProto.INT8, [], [0]),
        helper.make_tensor("weight", TensorProto.INT8, [_LENGTH, 32], np.full((_LENGTH, 32), 127, np.int8).tobytes(), raw=True),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "none"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "step", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "step", "zero"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", [1, 64]), ("y", [1, 32]))]
    model = helper.make_model(helper.make_graph(nodes, "product", *ends, numbers), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
