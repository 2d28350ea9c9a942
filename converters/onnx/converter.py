"""ONNX, in QDQ form where the program is quantized: torch's exporter, then the passes of ``onnx_passes``."""

import logging
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt.converters.interface import Array
from edgeopt.converters.onnx import file as onnx_file
from edgeopt.converters.onnx import kernels as onnx_kernels
from edgeopt.converters.onnx.file import dtype_name, text
from edgeopt.converters.operators import Operator, unsupported
from edgeopt.converters.program import Program, distinct_names, first_line, load_program
from edgeopt.converters.refusing import Unnamed, refusals
from edgeopt.converters.values import from_artifact, to_artifact
from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConversionError
from edgeopt.support.patches import in_place, onnxscript_matching
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from onnxruntime import InferenceSession

log = logging.getLogger(__name__)

DEFAULT_OPSET = 20
PROTOBUF_LIMIT_BYTES = 2**31 - 2**24
"""A protobuf message ends at 2 GiB: larger models keep their weights in a file beside; 16 MiB are left for the graph."""
_ERROR = 3
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


class OnnxConverter:
    """ONNX for ONNX Runtime, and for TensorRT through its parser."""

    suffix = ".onnx"
    runs_here = True
    stand_in = ""
    preload = ("onnx", "onnxscript", "onnxruntime", "edgeopt.converters.warm:onnx")
    folds_weights = True
    takes_long = False

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """As the interface says; inputs are named as the program's, and floats stay float32 (QDQ keeps integers inside)."""
        if profile.io.float_type != "float32" and not io_float:
            raise ConversionError(
                f"target {profile.name} asks for {profile.io.float_type} inputs and outputs",
                why="an ONNX QDQ file takes and gives float32",
                fix='set io.float_type = "float32" in the target\'s TOML',
            )
        import onnx

        from edgeopt.converters.onnx.passes import clean

        loaded = load_program(program)
        model = _export(loaded, profile.limits.opset or DEFAULT_OPSET)
        names = distinct_names(output_names, loaded.input_names)
        clean(model, loaded.input_names, names, float_layers=loaded.quantized and "TensorRT" not in profile.runtime)
        _save(model, out)
        try:
            onnx.checker.check_model(str(out), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            fix = "rewrite that layer with other operators, and report the model: the file that was written is none"
            raise Unnamed("ONNX", what="what torch.onnx.export wrote", why=first_line(error), fix=fix) from error

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """As the interface says; a dimension that is not fixed is -1."""
        model = onnx_file.read(path)
        graph = model.graph
        counts = Counter(text(node.op_type) for node in _nodes(graph))
        structure = Structure(
            operators=dict(sorted(counts.items())),
            quantize=counts["QuantizeLinear"] + counts["DynamicQuantizeLinear"],
            dequantize=counts["DequantizeLinear"],
            transpose=counts["Transpose"],
            unsupported=unsupported(_described(model), profile),
        )
        initializers = {tensor.name for tensor in graph.initializer}
        inputs = tuple(_spec(value) for value in graph.input if value.name not in initializers)
        return inputs, tuple(_spec(value) for value in graph.output), structure

    def load(self, path: Path, *, threads: int) -> "OnnxPredictor":
        """The file in ONNX Runtime's CPU execution provider."""
        return _session(path, threads, optimized=True)

    def load_as_written(self, path: Path, *, threads: int) -> "OnnxPredictor":
        """The file node by node: Q and DQ compute in floats what they say, and nothing is fused into integer kernels."""
        return _session(path, threads, optimized=False)

    def difference(self, path: Path) -> str:
        """As :class:`Differing` says."""
        return onnx_kernels.difference(path)

    def kernels(self) -> str:
        """As :class:`Differing` says."""
        return onnx_kernels.kernels()

    def tool_versions(self) -> dict[str, str]:
        """As the interface says."""
        return {name: version(name) for name in ("torch", "torchao", "onnx", "onnxscript", "onnx-ir", "onnxruntime")}


def _session(path: Path, threads: int, *, optimized: bool) -> "OnnxPredictor":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERROR
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return OnnxPredictor(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # ORT's exceptions share no base class
        fix = "rewrite that layer with other operators, or leave this target out, and report the model"
        raise Unnamed("ONNX Runtime", what="the file", why=first_line(error), fix=fix) from error


class OnnxPredictor:
    """One file in ONNX Runtime."""

    def __init__(self, session: "InferenceSession") -> None:
        self._session = session
        self.inputs = tuple(_runtime_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_runtime_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.inputs]

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        return from_artifact(self._run(self.prepare(*arrays)), self.outputs)

    def raw(self, *arrays: Array) -> None:
        self._run(arrays)

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        return to_artifact(arrays, self.inputs)

    def _run(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self._session.run(None, dict(zip(self._names, arrays, strict=True))))


def _export(program: Program, opset: int) -> "ir.Model":
    import torch

    fix = "rewrite that layer with operators of the ONNX opset, or leave this target out"
    with refusals("torch.onnx.export", fix, program.exported), in_place(onnxscript_matching.PATCHES):
        exported = torch.onnx.export(program.exported, program.examples, dynamo=True, opset_version=opset, verbose=False)
    assert exported is not None
    model: ir.Model = exported.model
    if model.opset_imports[""] != opset:
        raise ConversionError(
            f"the model needs ONNX opset {model.opset_imports['']}, the target allows {opset}",
            fix="raise limits.opset in the target's TOML if its runtime is new enough, or leave this target out",
        )
    return model


def _save(model: "ir.Model", out: Path) -> None:
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    ir.save(model, str(out), external_data=f"{out.name}.data" if size > PROTOBUF_LIMIT_BYTES else None)


def _nodes(graph: "onnx.GraphProto") -> Iterator["onnx.NodeProto"]:
    """Every node, those of subgraphs (If, Loop) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _described(model: "onnx.ModelProto") -> Iterator[Operator]:
    """Nodes as a device's table sees them; values of unknown type or rank pass."""
    graph = model.graph
    opsets = {_domain(text(one.domain)): one.version for one in model.opset_import}
    known: dict[str, tuple[str, int]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        known[value.name] = (dtype_name(value.type.tensor_type.elem_type), len(value.type.tensor_type.shape.dim))
    for tensor in graph.initializer:
        known[tensor.name] = (dtype_name(tensor.data_type), len(tensor.dims))
    for node in _nodes(graph):
        dtype, _ = known.get(node.input[0] if node.input else "", ("", 0))
        ranks = [known[name][1] for name in (*node.input, *node.output) if name in known]
        version = _version(node, opsets.get(_domain(text(node.domain)), 1))
        yield Operator(name=text(node.op_type), dtype=dtype, rank=max(ranks, default=0), version=version)


def _domain(name: str) -> str:
    """ONNX's own operators have two names for their domain."""
    return "" if name == "ai.onnx" else name


def _version(node: "onnx.NodeProto", opset: int) -> int:
    """The operator's own version in ``opset``: that of the opset which last changed it.

    Of operators that ONNX does not define, such as a runtime's own, the version of their domain is all that the file tells.
    """
    import onnx

    known = max(1, min(opset, onnx.defs.onnx_opset_version()))
    try:
        return int(onnx.defs.get_schema(text(node.op_type), known, _domain(text(node.domain))).since_version)
    except onnx.defs.SchemaError:
        return opset


def _spec(value: "onnx.ValueInfoProto") -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(name=text(value.name), shape=shape, dtype=dtype_name(tensor.elem_type))


def _runtime_spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    dtype = _DTYPES.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(name=value.name, shape=shape, dtype=dtype)
