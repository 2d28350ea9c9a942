"""torch.export of the user's module, whatever it was made with, called with flat tensors and returning flat tensors."""

import io
from contextlib import redirect_stderr

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeopt.capture.module_copy import copied
from edgeopt.capture.witness import Witness, eager
from edgeopt.errors import CaptureError, ModelError
from edgeopt.model.signature import flat_outputs
from edgeopt.model.user_code import line_in, summary, users_line


class Flat(nn.Module):
    """Calls ``module`` with arguments rebuilt from flat tensors and returns the tensors of its output as a tuple."""

    def __init__(self, module: nn.Module, tree: pytree.TreeSpec) -> None:
        super().__init__()
        self.module = module
        self._tree = tree

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = pytree.tree_unflatten(flat, self._tree)
        return flat_outputs(self.module(*args, **kwargs))[1]


def exported(witness: Witness, example: tuple[Tensor, ...]) -> ExportedProgram:
    """The witness' module as a program; ``example`` has the dtypes that it takes. The module stays what it was.

    Raises CaptureError with the user's line, ModelError for TorchScript that cannot be read back.
    """
    module = copied(witness.module, shared=tuple(witness.module.parameters()))
    _renormalise_once(module)
    flat: nn.Module = Flat(module, witness.tree)
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        flat = _from_torchscript(flat, example)
    try:
        # torch prints the graph so far where it refuses; the user's own line says more
        with torch.no_grad(), redirect_stderr(io.StringIO()), eager():  # a fused operator hides what would be quantized
            return torch.export.export(flat, example, strict=False)
    except (Exception, SystemExit) as error:
        line = users_line(error)
        raise CaptureError(
            f"torch.export cannot capture the model{f': see {line}' if line else ''}",
            why=summary(error),
            fix=_advice(error),
        ) from error


def _renormalise_once(module: nn.Module) -> None:
    """Embeddings with ``max_norm`` shorten the rows that they read, for good: all rows once, so that nothing is written."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            part.weight = nn.Parameter(torch.renorm(part.weight.detach(), part.norm_type, 0, part.max_norm), False)
            part.max_norm = None


def refuse_sizes_from_data(program: ExportedProgram, names: tuple[str, ...]) -> None:
    """Raises CaptureError where an output has as many elements as its values decide: an artifact has one shape."""
    results = program.graph.output_node().all_input_nodes
    for name, node in zip(names, results, strict=False):
        shape = getattr(node.meta.get("val"), "shape", ())
        if any(isinstance(size, torch.SymInt) for size in shape):
            line = line_in(str(node.meta.get("stack_trace", "")))
            raise CaptureError(
                f"the size of output {name} depends on the input's values{f': see {line}' if line else ''}",
                why="an artifact's outputs have fixed shapes",
                fix="return all elements and a mask beside them, such as torch.where(mask, y, 0), and choose after the model",
            )


def _advice(error: BaseException) -> str:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        return "take sys.exit() out of forward, also behind torch.compiler.is_exporting(); raise an exception instead"
    if "unbacked" in said.lower() and "Pending" in said:
        return "give it a fixed size: a result as long as values decide has none (a mask beside all elements instead)"
    if "numpy" in said:
        return "compute with torch's operators there: what numpy computes cannot be exported"
    if "data-dependent" in said or "Dynamic" in said or "dynamic" in said:
        return "replace control flow that depends on tensor values (if, while, .item()) by torch.where or torch.cond"
    return (
        "rewrite that line so that torch.export.export(model, inputs, strict=False) takes it; "
        "control flow that depends on tensor values (if, while, .item()) becomes torch.where or torch.cond"
    )


def line_of_effect(witness: Witness, example: tuple[Tensor, ...]) -> str:
    """The user's line that writes state or draws random numbers; empty where export does not show it."""
    try:
        graph = exported(witness, tuple(v.to(dtype) for v, dtype in zip(example, witness.dtypes, strict=True))).graph
    except CaptureError:
        return ""
    for node in graph.nodes:
        writes = getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable
        stored = writes and any(source.op == "placeholder" for source in node.all_input_nodes)
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if (stored or draws) and (line := line_in(str(node.meta.get("stack_trace", "")))):
            return line
    return ""


def _from_torchscript(flat: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """The module read back from TorchScript: traced once more as a whole, so that scripted parts keep their branches."""
    from torch._export.converter import TS2EPConverter

    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            traced = torch.jit.trace(flat, example, check_trace=False)  # type: ignore[no-untyped-call]
            program = TS2EPConverter(traced, example).convert()
        return program.module(check_guards=False)
    except (Exception, SystemExit) as error:
        why = f"torch cannot read this TorchScript back: {summary(error)}"
        raise ModelError("the model is TorchScript", why=why, fix="give the nn.Module that was scripted or traced") from error
