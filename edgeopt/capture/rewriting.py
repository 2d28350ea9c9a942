"""From what torch.export gives to the one canonical program, in named stages: each must leave what is computed as it was."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule

from edgeopt.capture import decompositions
from edgeopt.capture.batch_norms import fold_batch_norms
from edgeopt.capture.constant_folding import fold
from edgeopt.capture.float32 import to_float32
from edgeopt.capture.masks import limit_masks
from edgeopt.capture.state import refuse_frozen_state

EXPORT = "torch.export"
FLOAT32 = "float32"
MASKS = "masks made finite"


@dataclass(frozen=True, slots=True)
class RewritingStage:
    """The model after one rewriting. ``current`` takes ``inputs``' dtypes."""

    name: str
    current: "ExportedProgram | GraphModule"
    inputs: tuple[torch.dtype, ...]
    copied: tuple[str, ...] = ()
    """Weights of which the stage made copies, since others read them too."""

    def program(self) -> ExportedProgram:
        """The program that the last stage holds."""
        assert isinstance(self.current, ExportedProgram)
        return self.current

    def module(self) -> nn.Module:
        """What can be called with tensors of ``inputs``' dtypes."""
        return self.current.module(check_guards=False) if isinstance(self.current, ExportedProgram) else self.current

    def __call__(self, *sample: Tensor) -> tuple[Tensor, ...]:
        """The outputs for float32 inputs."""
        return self.runner()(*sample)

    def runner(self) -> Callable[..., tuple[Tensor, ...]]:
        """What gives the outputs for float32 inputs, of one module for every call: for a stage that writes nothing."""
        made: list[nn.Module] = []

        def run(*sample: Tensor) -> tuple[Tensor, ...]:
            if not made:
                made.append(self.module())
            with torch.no_grad():
                return tuple(made[0](*(value.to(dtype) for value, dtype in zip(sample, self.inputs, strict=True))))

        return run


def stages(
    program: ExportedProgram, given: tuple[Tensor, ...], example: tuple[Tensor, ...], limited: bool
) -> Iterator[RewritingStage]:
    """Each stage in order, the last with the canonical program. ``given``: the example in the dtypes that ``program`` takes.
    ``limited``: whether masks are made finite.

    What a stage holds is rewritten further by the next one. Raises CaptureError where an output depends on written state.
    """
    own, float32 = tuple(value.dtype for value in given), tuple(value.dtype for value in example)
    yield RewritingStage(EXPORT, program, own)
    for node in program.graph.nodes:
        node.meta.pop("custom", None)  # of a frozen TorchScript module, where torch contradicts itself
    with torch.no_grad():
        functional: ExportedProgram = program.run_decompositions(decompositions.table())
        without_writes(functional)
        module: Any = functional.module(check_guards=False)
        yield RewritingStage("operators opened up", module, own)
        fold(module)
        yield RewritingStage("constants computed once", module, own)
        to_float32(module)
        yield RewritingStage(FLOAT32, module, float32)
        copied = fold_batch_norms(module)
        yield RewritingStage("batch norms folded", module, float32, copied)
        if limited:
            limit_masks(module)
            yield RewritingStage(MASKS, module, float32)
        drop_unused_tensors(module)
        exported = torch.export.export(module, example, strict=False)
        result: ExportedProgram = exported.run_decompositions(decompositions.lone_norms())
        decompositions.remove_no_ops(result)
        yield RewritingStage("no-ops removed", result, float32)
        decompositions.fold_pads(result)
        yield RewritingStage("paddings folded into convolutions", result, float32)


def without_writes(program: ExportedProgram) -> tuple[str, ...]:
    """Leaves what ``program`` writes (buffers, its own inputs) out of what it returns; the names of that.

    Raises CaptureError where an output depends on what a buffer held before the call.
    """
    signature = program.graph_signature
    output = program.graph.output_node()
    kept = [index for index, spec in enumerate(signature.output_specs) if spec.kind == OutputKind.USER_OUTPUT]
    targets = {str(spec.target) for spec in signature.output_specs if spec.kind != OutputKind.USER_OUTPUT}
    arguments: Any = output.args[0]
    output.args = (tuple(arguments[index] for index in kept),)
    signature.output_specs = [signature.output_specs[index] for index in kept]
    state = {
        str(getattr(spec.arg, "name", "")): str(spec.target).removeprefix("module.")
        for spec in signature.input_specs
        if spec.kind != InputKind.USER_INPUT and str(spec.target) in targets
    }
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    refuse_frozen_state(program.graph, state, output.args[0])
    return tuple(sorted(targets))


def drop_unused_tensors(module: GraphModule) -> None:
    """Takes tensors that no operator reads any more out of ``module``: they would be stored in every artifact."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for path in [path for path, _ in (*module.named_parameters(), *module.named_buffers()) if path not in read]:
        parent, _, name = path.rpartition(".")
        delattr(module.get_submodule(parent), name)
