"""``.pt2``: the exported program itself, for devices that run PyTorch."""

import json
from collections import Counter
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.converters.interface import Array
from edgeopt.converters.program import Program, load_program
from edgeopt.converters.values import to_artifact
from edgeopt.core import Structure, TensorSpec
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    from torch.fx import Node

OUTPUT_NAMES = "output_names.json"


class Pt2Converter:
    """torch.export's own archive."""

    suffix = ".pt2"
    runs_here = True
    stand_in = ""
    preload = ()
    folds_weights = True
    takes_long = False

    def convert(
        self, program: Path, profile: TargetProfile, out: Path, *, io_float: bool, output_names: tuple[str, ...]
    ) -> None:
        """As the interface says; the archive's extra file ``output_names.json`` keeps the outputs' names."""
        import torch

        loaded = load_program(program)
        for node in loaded.exported.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of the machine that traced it
        archive = BytesIO()  # into a file torch would name the archive's root folder after it: other bytes for another name
        torch.export.save(loaded.exported, archive, extra_files={OUTPUT_NAMES: json.dumps(output_names)})
        out.write_bytes(archive.getvalue())

    def inspect(self, path: Path, profile: TargetProfile) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Structure]:
        """As the interface says; operators by torch's names, such as ``aten.conv2d.default``."""
        program, names = _load(path)
        counts = Counter(str(node.target) for node in program.exported.graph.nodes if node.op == "call_function")
        structure = Structure(
            operators=dict(sorted(counts.items())),
            quantize=sum(count for name, count in counts.items() if name.startswith("quantized_decomposed.quantize")),
            dequantize=sum(count for name, count in counts.items() if name.startswith("quantized_decomposed.dequantize")),
            transpose=sum(count for name, count in counts.items() if name.startswith(("aten.permute", "aten.transpose"))),
        )
        return _inputs(program), _outputs(program, names), structure

    def load(self, path: Path, *, threads: int) -> "Pt2Predictor":
        """The program in this process's PyTorch; ``threads`` is the whole process's setting."""
        import torch

        torch.set_num_threads(threads)
        program, names = _load(path)
        return Pt2Predictor(program, names)

    def tool_versions(self) -> dict[str, str]:
        """As the interface says."""
        return {name: version(name) for name in ("torch", "torchao")}


class Pt2Predictor:
    """One program in PyTorch."""

    def __init__(self, program: Program, names: tuple[str, ...]) -> None:
        self.inputs, self.outputs = _inputs(program), _outputs(program, names)
        self._module = program.exported.module(check_guards=False)

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        return self._run(self.prepare(*arrays))

    def raw(self, *arrays: Array) -> None:
        self._run(arrays)

    def prepare(self, *arrays: Array) -> tuple[Array, ...]:
        return to_artifact(arrays, self.inputs)

    def _run(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        import torch

        with torch.no_grad():
            result = self._module(*(torch.from_numpy(array) for array in arrays))
        tensors = result if isinstance(result, tuple | list) else (result,)
        return tuple(np.array(tensor.numpy()) for tensor in tensors)


def _load(path: Path) -> tuple[Program, tuple[str, ...]]:
    extra: dict[str, str] = {OUTPUT_NAMES: "[]"}
    program = load_program(path, extra)
    names = tuple(str(name) for name in json.loads(extra[OUTPUT_NAMES]))
    return program, names or tuple(str(name) for name in program.exported.graph_signature.user_outputs)


def _inputs(program: Program) -> tuple[TensorSpec, ...]:
    nodes = {node.name: node for node in program.exported.graph.nodes if node.op == "placeholder"}
    return tuple(_spec(name, nodes[name]) for name in program.input_names)


def _outputs(program: Program, names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    (results,) = program.exported.graph.output_node().args
    assert isinstance(results, tuple | list)
    return tuple(_spec(name, node) for name, node in zip(names, results, strict=True))


def _spec(name: str, node: "Node") -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(name=name, shape=tuple(int(size) for size in value.shape), dtype=str(value.dtype).removeprefix("torch."))
