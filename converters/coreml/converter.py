"""Core ML: an ML program (``.mlpackage``) made by coremltools from the exported program, or from a trace of it.

coremltools' frontend for exported programs lacks some operators that its frontend for ``torch.jit.trace`` has. Such a program
is traced; the package's metadata says so under ``edgeopt.frontend``.
"""

import json
import logging
import math
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.converters.coreml import layers as coreml_layers
from edgeopt.converters.coreml import package
from edgeopt.converters.coreml.outputs import compute_outputs
from edgeopt.converters.interface import Array
from edgeopt.converters.program import Program, distinct_names, first_line, load_program
from edgeopt.converters.refusing import Unnamed, converted_node, place_of
from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConfigError, ConversionError, did_you_mean
from edgeopt.mil.features import features
from edgeopt.mil.loading import LAYERS_KEY, read_spec
from edgeopt.support.patches import coremltools_graphs, in_place
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)

FRONTEND_KEY = "edgeopt.frontend"
_NODE = re.compile(r"fx node (\w+)|Layer \"(\w+?)(?:_cast_fp16)?\"|op '(\w+)'")
_PACKAGES = ("coremltools", "torch", "torchao", "numpy")


class CoremlConverter:
    """Lowers to Core ML. Artifacts run on Core ML on macOS; elsewhere edgeopt's own evaluator takes its place."""

    suffix = ".mlpackage"
    runs_here = True
    stand_in = "" if sys.platform == "darwin" else "edgeopt's evaluator of ML programs, every float16 tensor rounded"
    preload = ("coremltools", "edgeopt.converters.warm:coreml")
    folds_weights = True
    takes_long = False

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """Writes the package ``out``. Core ML's only integer type at the border is int32: int64 ids become that."""
        loaded = load_program(program)
        _refuse_dynamic_shapes(loaded, profile)
        names = distinct_names(output_names, loaded.input_names)
        options = _options(loaded, profile, out, float_io=io_float, output_names=names)
        shutil.rmtree(out, ignore_errors=True)  # coremltools refuses a folder that is not empty
        frontend, layers = _lower(loaded, options)
        package.make_reproducible(out, {FRONTEND_KEY: frontend, LAYERS_KEY: json.dumps(layers, separators=(",", ":"))})

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """Reads the package back and decodes every weight.

        Raises ConversionError where a weight is broken or the specification version is not the profile's.
        """
        spec = read_spec(path)
        wanted = profile.limits.specification_version
        if wanted is not None and spec.specificationVersion != wanted:
            raise ConversionError(
                f"{path.name} has the specification version {spec.specificationVersion}",
                why=f"{profile.name} asks for {wanted} ({profile.limits.minimum_os or 'no minimum OS given'})",
                fix="make limits.specification_version and limits.minimum_os of the target agree",
            )
        package.check_weights(path, spec)
        inputs, outputs = features(spec.description.input), features(spec.description.output)
        return inputs, outputs, package.structure(spec, profile)

    def load(self, path: Path, *, threads: int) -> "CoremlPredictor | EvaluatedPredictor":
        """The package on Core ML, which schedules the compute units itself; elsewhere on the evaluator, with ``threads``.

        Raises UnknownOperator where the evaluator lacks an operator.
        """
        return EvaluatedPredictor(path, threads) if self.stand_in else CoremlPredictor(path)

    def tool_versions(self) -> dict[str, str]:
        """Versions of coremltools and of what it reads the program with."""
        return {name: version(name) for name in _PACKAGES}


class _ByName:
    """Arrays in the package's order become its inputs by name."""

    inputs: tuple[TensorSpec, ...]

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        pairs = zip(arrays, self.inputs, strict=True)
        return tuple(np.asarray(array).astype(spec.dtype).reshape(spec.shape) for array, spec in pairs)

    def _feed(self, arrays: tuple[Array, ...]) -> dict[str, Array]:
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}


class CoremlPredictor(_ByName):
    """A package on Core ML, all compute units. Inputs and outputs are float32, float16 or int32 arrays."""

    def __init__(self, path: Path) -> None:
        import coremltools as ct

        spec = read_spec(path)
        self.inputs = features(spec.description.input)
        self.outputs = features(spec.description.output)
        self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL)

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        found = self._model.predict(self._feed(self.prepare(*arrays)))
        return tuple(np.asarray(found[spec.name]) for spec in self.outputs)

    def raw(self, *arrays: Array) -> None:
        self._model.predict(self._feed(arrays))


class EvaluatedPredictor(_ByName):
    """A package on :mod:`edgeopt.mil`. Inputs and outputs as Core ML has them: float32, float16 or int32 arrays."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        from edgeopt.mil.evaluator import load

        torch.set_num_threads(threads)
        self._program = load(path)
        self.inputs, self.outputs = self._program.inputs, self._program.outputs

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        found = self._program(**self._feed(self.prepare(*arrays)))
        return tuple(found[spec.name] for spec in self.outputs)

    def examine(self, *arrays: Array) -> tuple[tuple[Array, ...], tuple[str, ...]]:
        """As a call, and the operators whose results do not fit float16, over every call of this."""
        found, lost = self._program.examine(**self._feed(self.prepare(*arrays)))
        return tuple(found[spec.name] for spec in self.outputs), tuple(each.describe() for each in lost)

    def raw(self, *arrays: Array) -> None:
        self._program(**self._feed(arrays))


def _refuse_dynamic_shapes(program: Program, profile: TargetProfile) -> None:
    sizes = sorted(str(symbol) for symbol in program.exported.range_constraints)
    if sizes and not profile.limits.dynamic_shapes:
        raise ConversionError(
            f"{profile.name} needs fixed shapes",
            why=f"the program has dynamic sizes: {', '.join(sizes)}",
            fix="export the model without dynamic_shapes",
        )


def _options(
    program: Program, profile: TargetProfile, out: Path, *, float_io: bool, output_names: tuple[str, ...]
) -> dict[str, Any]:
    """The arguments of ct.convert that both frontends share."""
    import coremltools as ct

    half = profile.io.float_type == "float16" and not float_io
    scheme = profile.schemes[0]
    precision = ct.precision.FLOAT32 if scheme.activation == "float32" else ct.precision.FLOAT16
    options: dict[str, Any] = {
        "convert_to": "mlprogram",
        "minimum_deployment_target": _deployment_target(profile),
        "compute_precision": precision,
        "compute_units": ct.ComputeUnit.ALL,
        "package_dir": str(out),
        "skip_model_load": True,
        "inputs": [
            ct.TensorType(name=name, shape=tuple(example.shape), dtype=_border_dtype(example, half))
            for name, example in zip(program.input_names, program.examples, strict=True)
        ],
        "outputs": [
            ct.TensorType(name=name, dtype=_border_dtype(value, half))
            for name, value in zip(output_names, _outputs(program), strict=True)
        ],
    }
    if scheme.palette_bits:
        options["pass_pipeline"] = _palettizing(profile, scheme.palette_bits)
    return options


def _palettizing(profile: TargetProfile, bits: int) -> Any:
    """The passes that end with palettes. Raises ConfigError where the deployment target has none for groups of channels."""
    import coremltools as ct

    if _deployment_target(profile) < ct.target.iOS18:
        why = f"limits.minimum_os is {profile.limits.minimum_os}: tables for groups of channels exist from iOS 18 on"
        raise ConfigError(f"the target {profile.name} cannot have palettes", why=why, fix="set limits.minimum_os to iOS18")
    from edgeopt.converters.coreml.palettes import pipeline

    return pipeline(bits, profile.schemes[0].palette_channels)


def _deployment_target(profile: TargetProfile) -> Any:
    import coremltools as ct

    name = profile.limits.minimum_os
    known = [target.name for target in ct.target if not target.name.startswith("watchOS")]
    if name not in known:
        nearest = did_you_mean(name or "", known)
        why = f"limits.minimum_os is {name!r}; coremltools knows {', '.join(known)}"
        raise ConfigError(f"the target {profile.name} names no Core ML deployment target", why=why, fix=nearest or "set it")
    return ct.target[name]


def _border_dtype(value: "Tensor", half: bool) -> type[np.generic] | None:
    """float32 or float16 for floats, int32 for integers; None (Core ML's own choice) for booleans."""
    import torch

    if value.dtype is torch.bool:
        return None
    if value.is_floating_point():
        return np.float16 if half else np.float32
    return np.int32


def _outputs(program: Program) -> "tuple[Tensor, ...]":
    """The program's outputs as fake tensors."""
    node = next(node for node in program.exported.graph.nodes if node.op == "output")
    return tuple(value.meta["val"] for value in node.args[0])


def _lower(program: Program, options: dict[str, Any]) -> tuple[str, dict[str, list[str]]]:
    """Converts by the first frontend that takes the program.

    Its name, with the reason where it is the second, and the operations of each layer, where that is known.
    """
    import coremltools as ct

    from edgeopt.converters.coreml import forms, recurrent

    program = forms.rewritten(program)
    recurrent.register(whole_weights="pass_pipeline" in options)
    if forms.has_grouped_transposed(program):
        pipeline = options.setdefault("pass_pipeline", ct.PassPipeline())
        pipeline.remove_passes({"common::fuse_conv_scale"})  # it scales other channels of grouped ones (coremltools 9.0)
    named = [program.exported]
    try:
        named.append(decomposed := _decomposed(program.exported))
        marks = coreml_layers.mark(decomposed)
        with in_place(coremltools_graphs.VALIDATED_ONCE):
            model: Any = ct.convert(decomposed, **options)
        return "torch.export", coreml_layers.layers(model._mil_program, marks)
    except Exception as error:  # coremltools raises anything, AssertionError included
        first = error
    if program.quantized:
        raise _refusal(named, first, "torch.jit.trace, the other way in, cannot carry Q/DQ") from first
    log.warning("coremltools refused the exported program, tracing it instead: %s", first)
    shutil.rmtree(options["package_dir"], ignore_errors=True)
    try:
        ct.convert(_trace(program), **options)
        return f"torch.jit.trace, because of torch.export: {first_line(first)}", {}
    except Exception as second:
        raise _refusal(named, first, f"the traced program was refused too: {first_line(second)}") from second


def _decomposed(exported: "ExportedProgram") -> "ExportedProgram":
    """``exported`` in ATen, where operators that coremltools lacks are opened up into those that it has."""
    import torch
    from coremltools.converters.mil.frontend.torch.torch_op_registry import is_torch_fx_node_supported
    from torch.export import default_decompositions

    from edgeopt.converters.coreml.forms import decompositions

    known, opened = default_decompositions(), set()
    exported = exported.run_decompositions({torch.ops.aten.gelu.default: _tanh_gelu, **decompositions()})
    compute_outputs(exported)
    while True:
        calls = [node for node in exported.graph.nodes if node.op == "call_function" and node.target in known]
        lacking = {node.target for node in calls if not is_torch_fx_node_supported(node) and node.target not in opened}
        if not lacking:
            return exported
        exported = exported.run_decompositions({target: known[target] for target in lacking})
        opened |= lacking


def _tanh_gelu(x: "Tensor", *, approximate: str = "none") -> Any:
    """GELU by tanh in its parts, which coremltools fuses again: as one node it would become the exact one, without a word.

    Its frontend reads no keyword arguments (coremltools 9.0, converters/mil/frontend/torch/ops.py, gelu).
    """
    import torch

    if approximate == "none":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def _trace(program: Program) -> Any:
    import torch

    module = program.exported.module()
    with torch.no_grad():
        traced: Any = torch.jit.trace(module, program.examples, check_trace=False)  # type: ignore[no-untyped-call]
        return traced.eval()


def _refusal(exported: "list[ExportedProgram]", error: Exception, also: str) -> ConversionError:
    """The operator, layer and line that coremltools named, with both causes."""
    match = _NODE.search(str(error))
    nodes = {node.name: node for each in exported for node in each.graph.nodes if node.op == "call_function"}
    name = next((group for group in match.groups() if group), "") if match else converted_node(error, nodes)
    why, fix = f"{first_line(error)}; {also}", "rewrite that layer with other operators, or leave Core ML's targets out"
    if not name:
        return Unnamed("Core ML", why=why, fix=fix)
    subject = place_of(nodes[name], name) if name in nodes else f"the operator {name}"
    return ConversionError(f"Core ML refused {subject}", why=why, fix=fix)
