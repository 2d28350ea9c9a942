"""Core ML: an ML program (``.mlpackage``) made by coremltools from the exported program, or from a trace of it.

coremltools' frontend for exported programs lacks some operators (LSTM and GRU among them) that its frontend for
``torch.jit.trace`` has. Such a program is traced; the package's metadata says so under ``edgeopt.frontend``.
"""

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.converters import coreml_package
from edgeopt.converters.interface import Array
from edgeopt.converters.program import Program, distinct_names, first_line, load_program, module_path
from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConfigError, ConversionError, did_you_mean
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)

FRONTEND_KEY = "edgeopt.frontend"
_NODE = re.compile(r"fx node (\w+)|Layer \"(\w+?)(?:_cast_fp16)?\"|op '(\w+)'")
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_PACKAGES = ("coremltools", "torch", "torchao", "numpy")


class CoremlConverter:
    """Lowers to Core ML. Artifacts run on macOS only; elsewhere their structure is checked."""

    suffix = ".mlpackage"
    runs_here = sys.platform == "darwin"

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """Writes the package ``out``. Core ML's only integer type at the border is int32: int64 ids become that."""
        loaded = load_program(program)
        _refuse_dynamic_shapes(loaded, profile)
        names = distinct_names(output_names, loaded.input_names)
        options = _options(loaded, profile, out, float_io=io_float, output_names=names)
        shutil.rmtree(out, ignore_errors=True)  # coremltools refuses a folder that is not empty
        frontend = _lower(loaded, options)
        coreml_package.make_reproducible(out, {FRONTEND_KEY: frontend})

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """Reads the package back and decodes every weight.

        Raises ConversionError where a weight is broken or the specification version is not the profile's.
        """
        spec = coreml_package.read_spec(path)
        wanted = profile.limits.specification_version
        if wanted is not None and spec.specificationVersion != wanted:
            raise ConversionError(
                f"{path.name} has the specification version {spec.specificationVersion}",
                why=f"{profile.name} asks for {wanted} ({profile.limits.minimum_os or 'no minimum OS given'})",
                fix="make limits.specification_version and limits.minimum_os of the target agree",
            )
        coreml_package.check_weights(path, spec)
        inputs, outputs = coreml_package.features(spec.description.input), coreml_package.features(spec.description.output)
        return inputs, outputs, coreml_package.structure(spec)

    def load(self, path: Path, *, threads: int) -> "CoremlPredictor":
        """The package on Core ML (macOS). ``threads`` does not apply: Core ML schedules the compute units itself."""
        if not self.runs_here:
            raise ConversionError(
                "Core ML artifacts cannot run here",
                why=f"the Core ML framework exists on Apple systems only, and this is {sys.platform}",
                fix="check the structure here, and run the artifact on a Mac",
            )
        return CoremlPredictor(path)

    def tool_versions(self) -> dict[str, str]:
        """Versions of coremltools and of what it reads the program with."""
        return {name: version(name) for name in _PACKAGES}


class CoremlPredictor:
    """A package on Core ML, all compute units. Inputs and outputs are float32, float16 or int32 arrays."""

    def __init__(self, path: Path) -> None:
        import coremltools as ct

        spec = coreml_package.read_spec(path)
        self.inputs = coreml_package.features(spec.description.input)
        self.outputs = coreml_package.features(spec.description.output)
        self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL)

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        found = self._model.predict(self._feed(self.prepare(*arrays)))
        return tuple(np.asarray(found[spec.name]) for spec in self.outputs)

    def raw(self, *arrays: Array) -> None:
        self._model.predict(self._feed(arrays))

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        pairs = zip(arrays, self.inputs, strict=True)
        return tuple(np.asarray(array).astype(spec.dtype).reshape(spec.shape) for array, spec in pairs)

    def _feed(self, arrays: tuple[Array, ...]) -> dict[str, Array]:
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}


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
    return {
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


def _lower(program: Program, options: dict[str, Any]) -> str:
    """Converts by the first frontend that takes the program; its name, with the reason where it is the second."""
    import coremltools as ct

    try:
        with _validated_once():
            ct.convert(_decomposed(program.exported), **options)
        return "torch.export"
    except Exception as error:  # coremltools raises anything, AssertionError included
        first = error
    if program.quantized:
        raise _refusal(program, first, "torch.jit.trace, the other way in, cannot carry Q/DQ") from first
    log.warning("coremltools refused the exported program, tracing it instead: %s", first)
    shutil.rmtree(options["package_dir"], ignore_errors=True)
    try:
        ct.convert(_trace(program), **options)
        return f"torch.jit.trace, because of torch.export: {first_line(first)}"
    except Exception as second:
        raise _refusal(program, first, f"the traced program was refused too: {first_line(second)}") from second


@contextmanager
def _validated_once() -> Iterator[None]:
    """Inside, coremltools validates its program where scopes count, not after each of its 90 passes: a fifth of its work.

    Its backend validates whatever it serializes (coremltools/converters/mil/backend/mil/load.py): nothing broken gets out.
    """
    from coremltools.converters.mil.mil import Program as MilProgram

    original = getattr(MilProgram, "validate", None)
    if original is None:
        log.warning("coremltools has changed: it validates as it likes")
        yield
        return

    def validate(self: Any, check_essential_scope: bool = False) -> None:
        if check_essential_scope:
            original(self, check_essential_scope=True)

    MilProgram.validate = validate
    try:
        yield
    finally:
        MilProgram.validate = original


def _decomposed(exported: "ExportedProgram") -> "ExportedProgram":
    """``exported`` in ATen, where operators that coremltools lacks are opened up into those that it has.

    Recurrent ones are left: PyTorch's decomposition would unroll every time step, a trace keeps them whole.
    """
    from coremltools.converters.mil.frontend.torch.torch_op_registry import is_torch_fx_node_supported
    from torch.export import default_decompositions

    known, opened = default_decompositions(), set()
    exported = exported.run_decompositions({})
    while True:
        calls = [node for node in exported.graph.nodes if node.op == "call_function" and node.target in known]
        lacking = {node.target for node in calls if not is_torch_fx_node_supported(node) and node.target not in opened}
        lacking = {target for target in lacking if target.overloadpacket.__name__ not in _RECURRENT}
        if not lacking:
            return exported
        exported = exported.run_decompositions({target: known[target] for target in lacking})
        opened |= lacking


def _trace(program: Program) -> Any:
    import torch

    module = program.exported.module()
    with torch.no_grad():
        traced: Any = torch.jit.trace(module, program.examples, check_trace=False)  # type: ignore[no-untyped-call]
        return traced.eval()


def _refusal(program: Program, error: Exception, also: str) -> ConversionError:
    """The operator and layer that coremltools named, with both causes."""
    match = _NODE.search(str(error))
    named = next((group for group in match.groups() if group), "") if match else ""
    node = next((node for node in program.exported.graph.nodes if node.name == named), None)
    layer = module_path(node) if node is not None else ""
    subject = f"the operator {named}" + (f" of layer {layer}" if layer else "") if named else "the program"
    return ConversionError(
        f"Core ML refused {subject}",
        why=f"{first_line(error)}; {also}",
        fix="rewrite that layer with other operators, or leave Core ML's targets out",
    )
