"""From a module to one canonical ExportedProgram: flat positional tensors in, a flat tuple out, batch norms folded.

Every target starts from this program, so its node names identify values throughout: calibration, annotation and reports.
"""

import hashlib
import io
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from edgeopt import decompositions
from edgeopt.calling import Signature, as_float32, flat_outputs, spec_of
from edgeopt.constant_folding import fold
from edgeopt.core import Decision, TensorSpec
from edgeopt.errors import CaptureError, EdgeoptError, ForwardError, InputError, ModelError, NotFiniteError
from edgeopt.model import Model
from edgeopt.user_code import summary, users_line
from edgeopt.witness import Witness, copied


@dataclass(frozen=True, slots=True)
class Captured:
    """The canonical program and how it is called. ``example`` holds flat tensors in ``signature``'s order."""

    program: ExportedProgram
    signature: Signature
    example: tuple[Tensor, ...]
    outputs: tuple[TensorSpec, ...]
    decisions: tuple[Decision, ...]
    witness: Witness
    """The user's own module, as it was given: called with flat tensors, it returns the outputs that the program must give."""

    @property
    def in_low_precision(self) -> bool:
        """Whether the user's own module computes in float16 or bfloat16, and the program in float32."""
        return any(value.dtype in (torch.float16, torch.bfloat16) for value in _state(self.witness.module).values())

    def sha256(self) -> str:
        """Digest of graph, constants and interface: equal for equal programs, whatever produced them."""
        return program_digest(self.program, self.signature.specs + self.outputs)


class _Flat(nn.Module):
    """Calls ``module`` with arguments rebuilt from flat tensors and returns the tensors of its output as a tuple."""

    def __init__(self, module: nn.Module, tree: pytree.TreeSpec) -> None:
        super().__init__()
        self.module = module
        self._tree = tree

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = pytree.tree_unflatten(flat, self._tree)
        return flat_outputs(self.module(*args, **kwargs))[1]


def capture(model: Model) -> Captured:
    """Runs, checks, exports and canonicalises ``model``.

    Raises InputError, ForwardError, CaptureError or NotFiniteError, each with the user's line where there is one.
    """
    original = _own_copy(model)
    module, decisions = _float32_module(original)
    _refuse_not_finite_state(module)
    example_batch = model.example_inputs
    if example_batch is None and isinstance(model.module, ExportedProgram):
        example_batch = _example_of(model.module)
    signature, example = Signature.of(getattr(module, "forward", module), as_float32(example_batch))
    _refuse_not_finite(((spec.name, value) for spec, value in zip(signature.specs, example, strict=True)), "example input")
    given = Signature.of(getattr(original, "forward", original), example_batch)[1]
    witness = Witness(original, signature.tree, tuple(value.dtype for value in given))
    flat = _Flat(module, signature.tree)
    names, outputs = _run(witness, signature, example)
    program = _canonical(_export(flat, example), example)
    name_inputs(program, signature.specs)
    _refuse_not_finite_outputs(program, names, outputs, example)
    return Captured(program, signature, example, tuple(map(spec_of, names, outputs)), decisions, witness)


def _own_copy(model: Model) -> nn.Module:
    """The user's module in eval mode, apart from the user's own, which is never changed."""
    given = model.module.module(check_guards=False) if isinstance(model.module, ExportedProgram) else model.module
    if not isinstance(given, nn.Module):
        raise ModelError(f"the model is a {type(given).__name__}, not a torch.nn.Module", fix="give an nn.Module")
    try:
        module = copied(given)
    except Exception as error:
        raise ModelError("the module cannot be copied", why=summary(error), fix="make it work with copy.deepcopy") from error
    return module if isinstance(model.module, ExportedProgram) else module.eval()


def _float32_module(original: nn.Module) -> tuple[nn.Module, tuple[Decision, ...]]:
    """The module to export, in float32."""
    module = copied(original)
    low = {str(value.dtype) for value in _state(module).values() if value.dtype in (torch.float16, torch.bfloat16)}
    if not low:
        return module, ()
    reason = "ranges are calibrated and compared in float32; each target then chooses its own precision"
    return module.float(), (Decision(subject="model", choice=f"{', '.join(sorted(low))} computed as float32", reason=reason),)


def _example_of(program: ExportedProgram) -> Any:
    if program.example_inputs is None:
        raise InputError("the .pt2 program holds no example inputs", fix="pass --input for each of its inputs")
    args, kwargs = program.example_inputs
    if args and kwargs:
        raise InputError("the .pt2 program mixes positional and keyword inputs", fix="export it with one kind of them")
    return kwargs or args


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _refuse_not_finite_state(module: nn.Module) -> None:
    _refuse_not_finite(module.named_parameters(), "parameter")
    with_nan = ((name, value) for name, value in module.named_buffers() if bool(torch.isnan(value).any()))
    _refuse_not_finite(with_nan, "buffer")  # infinity is allowed there: masks are buffers


def _refuse_not_finite(values: Any, what: str) -> None:
    for name, value in values:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise NotFiniteError(
                f"{what} {name} holds {count} NaN or infinite value{'s' if count > 1 else ''}",
                fix="such a model cannot be quantized or compared: find the training step or file that broke it",
            )


def _run(witness: Witness, signature: Signature, example: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    try:
        names, outputs = witness.named(example)
    except EdgeoptError:
        raise
    except Exception as error:
        line = users_line(error)
        raise ForwardError(
            f"the model raised in forward{f' at {line}' if line else ''}",
            why=summary(error),
            fix=f"check that it runs on the example inputs: {signature.describe()}",
        ) from error
    if not outputs:
        raise ModelError("the model returns no tensor", fix="return a tensor, or a tuple or dict of tensors, from forward")
    return names, outputs


def _export(flat: _Flat, example: tuple[Tensor, ...]) -> ExportedProgram:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one fused operator hides what would be quantized
    try:
        # torch prints the graph so far where it refuses; the user's own line says more
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            return torch.export.export(flat, example, strict=False)
    except Exception as error:
        line = users_line(error)
        raise CaptureError(
            f"torch.export cannot capture the model{f': see {line}' if line else ''}",
            why=summary(error),
            fix="replace control flow that depends on tensor values (if, while, .item()) by torch.where or torch.cond",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _canonical(program: ExportedProgram, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Batch norms folded into convolutions, in-place operators made functional, attention opened up, no-ops removed."""
    from torchao.quantization.pt2e.utils import _fuse_conv_bn_  # the pass that prepare_pt2e would run for every target

    module = program.module(check_guards=False)
    _fuse_conv_bn_(module)
    with torch.no_grad():
        folded = torch.export.export(module, example, strict=False)
        result: ExportedProgram = folded.run_decompositions(decompositions.table())
        decompositions.limit_masks(result)
        module = result.module(check_guards=False)
        if fold(module):
            result = torch.export.export(module, example, strict=False).run_decompositions({})
    decompositions.remove_no_ops(result)
    decompositions.fold_pads(result)
    return result


def name_inputs(program: ExportedProgram, named: tuple[TensorSpec, ...]) -> None:
    """Placeholders get the names of the model's own arguments: converters show them to users."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec, wanted in zip(specs, named, strict=True):
        node = nodes[str(spec.arg.name)]
        node._rename(wanted.name)
        node.target = node.name
        spec.arg.name = node.name
    program.graph_module.recompile()


def _refuse_not_finite_outputs(
    program: ExportedProgram, names: tuple[str, ...], outputs: tuple[Tensor, ...], example: tuple[Tensor, ...]
) -> None:
    """Infinity inside is normal (attention masks); in an output it is not. Names the first layer that makes a NaN."""
    if all(bool(torch.isfinite(value).all()) for value in outputs if value.is_floating_point()):
        return
    found: list[str] = []

    class Finder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any()):
                found.append(layer_of(node))
            return value

    with torch.no_grad():
        Finder(program.module(check_guards=False)).run(*example)
    bad = [n for n, v in zip(names, outputs, strict=True) if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    raise NotFiniteError(
        f"output {', '.join(bad)} holds NaN or infinity on the example inputs",
        why=f"the first NaN comes from layer {found[0]}" if found else "an infinity reaches the output",
        fix="check the weights and the input's normalisation: the float model itself is broken there",
    )


def failing_layer(module: GraphModule, sample: tuple[Tensor, ...]) -> tuple[str, str]:
    """The layer of the program at which ``sample`` makes it raise, and the user's line of it; each empty where not known."""
    found: list[torch.fx.Node] = []

    class Finder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            found.append(node)
            return super().run_node(node)

    with torch.no_grad(), suppress(Exception):
        Finder(module).run(*sample)
    last = found[-1]
    return layer_path(last), users_line(RuntimeError(last.meta.get("stack_trace") or ""))


def layer_of(node: torch.fx.Node) -> str:
    """The user's module path that ``node`` came from, such as ``features.0.1``; the node's own name where there is none."""
    return layer_path(node) or node.name


def layer_path(node: torch.fx.Node) -> str:
    """As :func:`layer_of`, but empty where there is none: for the model itself, and for what no module made."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(path) for path, _ in reversed(list(stack.values())) if path), "").removeprefix("L['self'].")
    return "" if path == "module" else path.removeprefix("module.")  # _Flat's, around the user's model


def program_digest(program: ExportedProgram, interface: tuple[TensorSpec, ...]) -> str:
    """sha256 over operators and arguments in order, all constants, and the interface; source paths do not count."""
    digest = hashlib.sha256(repr(interface).encode())
    for node in program.graph.nodes:
        digest.update(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs}\n".encode())
    digest.update(str(program.graph_signature).encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        digest.update(f"{name} {type(value).__name__}\n".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
