"""TFLite: litert-torch lowers the program, then ``tflite_passes`` settle its interface and its weights' dtype."""

import fcntl
import logging
import os
from collections import Counter
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.converters.interface import Array
from edgeopt.converters.operators import unsupported
from edgeopt.converters.program import Program, content_of, distinct_names, first_line, load_program
from edgeopt.converters.refusing import Unnamed, mark_places, refusals
from edgeopt.converters.values import from_artifact, to_artifact
from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConversionError
from edgeopt.support.files import sha256_of, write_atomic
from edgeopt.support.patches import in_place
from edgeopt.support.patches.litert_torch_export import exported_already
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

log = logging.getLogger(__name__)

_TOOLS = ("torch", "torchao", "litert-torch", "litert-converter", "ai-edge-litert")


class TfliteConverter:
    """TFLite for LiteRT: its XNNPACK, NNAPI and GPU delegates."""

    suffix = ".tflite"
    runs_here = True
    stand_in = ""
    preload = (
        "litert_torch",
        "ai_edge_litert.interpreter",
        "edgeopt.converters.tflite.forms",
        "edgeopt.converters.tflite.hybrid",
        "edgeopt.converters.tflite.passes",
        "edgeopt.converters.warm:tflite",
    )
    folds_weights = False  # litert-torch folds them itself
    takes_long = True

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """As the interface says; integers of 64 bits become 32 bits, as LiteRT's delegates have no others."""
        float_type = "float32" if io_float else profile.io.float_type
        if float_type not in ("int8", "float32"):
            raise ConversionError(
                f"target {profile.name} asks for {float_type} inputs and outputs",
                why="litert-torch makes int8 and float32 ones",
                fix='set io.float_type = "int8" or "float32" in the target\'s TOML',
            )
        loaded = load_program(program)
        content = _lower(loaded) if loaded.quantized else _lowered_once(program, loaded)

        from edgeopt.converters.tflite import file as tflite_file
        from edgeopt.converters.tflite import hybrid, passes

        model = tflite_file.read(content)
        passes.name_interface(model, loaded.input_names, distinct_names(output_names, loaded.input_names))
        if float_type == "float32":
            passes.float_border(model)
            if loaded.quantized:
                hybrid.fold_last_weights(model)
        if profile.schemes[0].weight == "float16":
            passes.half_weights(model)
        tflite_file.write(model, out)

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """As the interface says, read from the flatbuffer; operators by their builtin names, CUSTOM ones by their own."""
        from edgeopt.converters.tflite import file as tflite_file

        model = tflite_file.read(content_of(path))
        operators = [*tflite_file.operators(model)]
        counts = Counter(operator.name for operator in operators)
        structure = Structure(
            operators=dict(sorted(counts.items())),
            quantize=counts["QUANTIZE"],
            dequantize=counts["DEQUANTIZE"],
            transpose=counts["TRANSPOSE"],
            unsupported=unsupported(operators, profile),
        )
        return *tflite_file.interface(model), structure

    def load(self, path: Path, *, threads: int) -> "TflitePredictor":
        """The file in LiteRT's interpreter, with XNNPACK where it applies (the interpreter's default)."""
        from ai_edge_litert.interpreter import Interpreter

        from edgeopt.converters.tflite import file as tflite_file

        inputs, outputs = tflite_file.interface(tflite_file.read(content_of(path)))
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            fix = (
                "rewrite that layer with other operators, or leave this target out: litert-torch wrote what LiteRT does not run"
            )
            raise Unnamed("LiteRT", what="the file", why=first_line(error), fix=fix) from error
        return TflitePredictor(interpreter, inputs, outputs)

    def tool_versions(self) -> dict[str, str]:
        """As the interface says."""
        return {name: version(name) for name in _TOOLS}


class TflitePredictor:
    """One file in LiteRT's interpreter. Not for several threads at once: an interpreter holds one set of tensors."""

    def __init__(self, interpreter: "Interpreter", inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._interpreter = interpreter
        self.inputs, self.outputs = inputs, outputs
        self._inputs = [int(detail["index"]) for detail in interpreter.get_input_details()]
        self._outputs = [int(detail["index"]) for detail in interpreter.get_output_details()]

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        self.raw(*self.prepare(*arrays))
        copies = tuple(self._interpreter.get_tensor(index) for index in self._outputs)
        return from_artifact(copies, self.outputs)

    def raw(self, *arrays: Array) -> None:
        for index, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        return to_artifact(arrays, self.inputs)


def _lowered_once(path: Path, program: Program) -> bytes:
    """The float program at ``path`` lowered, by whichever target comes first: fp32 and fp16 differ in what follows only.

    The result is kept beside it, under a name that tells its content and the tools; a second worker waits for the first.
    """
    if not os.access(path.parent, os.W_OK):
        return _lower(program)
    tools = "".join(sorted(f"{name} {version(name)}," for name in _TOOLS))
    key = sha256(f"{sha256_of(path)} {tools}".encode()).hexdigest()[:16]
    kept = path.with_name(f".{path.stem}-{key}.tflite")
    with kept.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, also where this process dies
        if not kept.exists():
            write_atomic(kept, _lower(program))
    return kept.read_bytes()


def _lower(program: Program) -> bytes:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    settings = None
    if program.quantized:
        # It only tells litert-torch that there are Q/DQ nodes: nothing is quantized with these settings.
        marker = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        settings = QuantConfig(pt2e_quantizer=marker)
    from edgeopt.converters.tflite.forms import rewritten

    program = rewritten(program)
    mark_places(program.exported)
    fix = "rewrite that layer with operators that TFLite has, or leave this target out"
    with refusals("litert-torch", fix, program.exported):
        module = program.exported.module(check_guards=False)
        with in_place(exported_already(program.exported)):
            return bytes(litert_torch.convert(module, program.examples, quant_config=settings).model_content())
