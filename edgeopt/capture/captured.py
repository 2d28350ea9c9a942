"""From a module to one canonical ExportedProgram: flat positional tensors in, a flat tuple out, batch norms folded.

Every target starts from this program, so its node names identify values throughout: calibration, annotation and reports.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeopt.capture.dynamic_shapes import fixed_axes
from edgeopt.capture.exporting import exported, refuse_sizes_from_data
from edgeopt.capture.finite import refuse_not_finite, refuse_not_finite_outputs, refuse_not_finite_state
from edgeopt.capture.float32 import OTHER_FLOATS, as_float32, low_precision
from edgeopt.capture.module_copy import copied, own_copy
from edgeopt.capture.program_names import name_inputs
from edgeopt.capture.proven_rewriting import canonical
from edgeopt.capture.state import Observed, observe, same
from edgeopt.capture.unlike import Sample, unlike
from edgeopt.capture.witness import Witness
from edgeopt.core import Decision, TensorSpec
from edgeopt.errors import CaptureError, EdgeoptError, ForwardError, InputError, ModelError
from edgeopt.model.model import Model
from edgeopt.model.signature import Signature, spec_of
from edgeopt.model.user_code import cause, reported_as, summary, users_line


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
    unlike: tuple[Sample, ...] = ()
    """Inputs unlike ``example``, as flat as it, on which the program and what is made from it can be judged."""

    @property
    def in_low_precision(self) -> bool:
        """Whether the user's own module computes in float16 or bfloat16, and the program in float32."""
        return bool(self.witness.low)

    def sha256(self) -> str:
        """Digest of graph, constants and interface: equal for equal programs, whatever produced them."""
        return program_digest(self.program, self.signature.specs + self.outputs)


def capture(model: Model) -> Captured:
    """Runs, checks, exports and canonicalises ``model``.

    Raises InputError, ForwardError, CaptureError or NotFiniteError, each with the user's line where there is one.
    """
    module, decisions = own_copy(model.module)
    refuse_not_finite_state(module)
    signature, example, given = _interface(model, module)
    refuse_not_finite(((spec.name, value) for spec, value in zip(signature.specs, example, strict=True)), "example input")
    witness = Witness(module, signature.tree, tuple(value.dtype for value in given))
    witness, tried, others, more = _tried(witness, signature, example)
    _refuse_lost_inputs(witness, tried, example, given, signature)
    fixed = fixed_axes(model.module, signature) if isinstance(model.module, ExportedProgram) else ()
    decisions = (*decisions, *fixed, *more, *_state_decisions(tried), *_without_fused_encoder(witness, tried, example))
    decisions = (*decisions, *_beside_tensors(witness, example))
    program = exported(witness, tuple(value.to(dtype) for value, dtype in zip(example, witness.dtypes, strict=True)))
    witness = replace(witness, low=low_precision(program))
    with reported_as(_unforeseen):
        refuse_sizes_from_data(program, tried.names)
        proven, judged, more = canonical(program, witness, tried, example, others)
        name_inputs(proven, signature.specs)
        refuse_not_finite_outputs(proven, tried.names, tried.outputs, example)
    specs = tuple(map(spec_of, tried.names, tried.outputs))
    return Captured(proven, signature, example, specs, (*decisions, *_low_inside(witness), *more), witness, tuple(judged))


def interface(model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Flat inputs and outputs of ``model``, as :func:`capture` finds them, from runs of the module alone.

    Raises what :func:`capture` raises before it exports.
    """
    module, _ = own_copy(model.module)
    signature, example, given = _interface(model, module)
    _, tried, _, _ = _tried(Witness(module, signature.tree, tuple(value.dtype for value in given)), signature, example)
    return signature.specs, tuple(map(spec_of, tried.names, tried.outputs))


def _unforeseen(error: BaseException) -> CaptureError:
    fix = "leave out the layers around the operator that it names, and report the model"
    return CaptureError("the captured program cannot be made ready for the converters", why=cause(error), fix=fix)


def _low_inside(witness: Witness) -> tuple[Decision, ...]:
    """A model in float32 that computes in 16 bits on its way does so in float32."""
    names = ", ".join(sorted(map(str, witness.low - witness.floats())))
    if not names:
        return ()
    reason = "ranges are calibrated and compared in float32; each target then chooses its own precision"
    return (Decision(subject="model", choice=f"{names} inside forward computed as float32", reason=reason),)


def _interface(model: Model, module: nn.Module) -> tuple[Signature, Sample, Sample]:
    """How the model is called, and the flat example: in float32 and as it was given."""
    batch = model.example_inputs
    if batch is None and isinstance(model.module, ExportedProgram):
        batch = _example_of(model.module)
    signature, given = Signature.of(getattr(module, "forward", module), batch)
    given = tuple(value.cpu() for value in given)
    for spec, value in zip(signature.specs, given, strict=True):
        if value.is_complex() or value.is_quantized or value.layout != torch.strided or value.is_meta:
            kind = spec.dtype if value.is_complex() or value.is_quantized else f"{value.layout} tensor on {value.device}"
            fix = (
                "take torch.view_as_real(x) as input and begin forward with torch.view_as_complex" if value.is_complex() else ""
            )
            raise InputError(
                f"the input {spec.name} is {kind}", why="no target takes it", fix=fix or "give a dense tensor with values"
            )
    example = tuple(value.to(as_float32(value.dtype)) for value in given)
    specs = tuple(replace(spec, dtype=spec_of("", value).dtype) for spec, value in zip(signature.specs, example, strict=True))
    return replace(signature, specs=specs), example, given


def _example_of(program: ExportedProgram) -> Any:
    if program.example_inputs is None:
        raise InputError("the .pt2 program holds no example inputs", fix="pass --input for each of its inputs")
    args, kwargs = program.example_inputs
    if args and kwargs:
        raise InputError("the .pt2 program mixes positional and keyword inputs", fix="export it with one kind of them")
    return kwargs or args


def _tried(
    witness: Witness, signature: Signature, example: Sample
) -> tuple[Witness, Observed, list[Sample], tuple[Decision, ...]]:
    """The witness in the first precision that runs here, what it did, and the decision that this was."""
    names = [str(dtype) for dtype in OTHER_FLOATS if dtype in witness.floats()]
    others = unlike(example)
    choice = f"{', '.join(names)} computed as float32"
    reason = "ranges are calibrated and compared in float32; each target then chooses its own precision"
    ways = [
        (witness, ""),
        (replace(witness, dtypes=tuple(map(as_float32, witness.dtypes))), "as given"),
        (None, "in its own precision"),
    ]
    first: BaseException | None = None
    for way, failed in ways if names else ways[:1]:
        try:
            chosen = witness.in_float32() if way is None else way
            tried = observe(chosen, example, others)
        except (EdgeoptError, KeyboardInterrupt):
            raise
        except BaseException as error:  # what the user's forward raises
            first = first or error
            continue
        if not tried.outputs:
            raise _without_tensors(chosen, example)
        _refuse_complex_outputs(tried)
        said = f"; {failed} it raises here: {summary(first, 120)}" if first else ""
        decided = (Decision(subject="model", choice=choice, reason=reason + said),) if names else ()
        return replace(chosen, writes=bool(tried.written)), tried, others, decided
    assert first is not None
    raise _raised(first, signature) from first


def _without_tensors(witness: Witness, example: Sample) -> ModelError:
    kinds = ", ".join(witness.beside_tensors(example, kinds=True))
    why = f"it returns {kinds}, in which torch.utils._pytree finds none" if kinds else ""
    fix = "return a tensor, or a tuple or dict of tensors, from forward: of an object, its fields"
    return ModelError("the model returns no tensor", why=why, fix=fix)


def _refuse_complex_outputs(tried: Observed) -> None:
    for name, value in zip(tried.names, tried.outputs, strict=True):
        if value.is_complex():
            fix = "return torch.view_as_real(y), or its absolute value and angle"
            raise ModelError(f"output {name} is complex", why="no target has complex numbers", fix=fix)


def _refuse_lost_inputs(witness: Witness, tried: Observed, example: Sample, given: Sample, signature: Signature) -> None:
    """Artifacts take float32: what a float64 module reads of its input beyond that would be gone, and the proof blind to it."""
    lost = [
        spec.name
        for spec, value, single in zip(signature.specs, given, example, strict=True)
        if value.dtype == torch.float64 and not torch.equal(value, single.double())
    ]
    if lost and not same(tried.outputs, witness(*given), rtol=1e-3):
        raise InputError(
            f"the model needs more digits of its input {', '.join(lost)} than float32 has, and artifacts take float32",
            why="with the input rounded to float32 its outputs are others",
            fix="take off before the model what is the same in every call (an offset, a start time), and give the difference",
        )


def _raised(error: BaseException, signature: Signature) -> ForwardError:
    line = users_line(error)
    return ForwardError(
        f"the model raised in forward{f' at {line}' if line else ''}",
        why=summary(error),
        fix=f"check that it runs on the example inputs: {signature.describe()}",
    )


def _without_fused_encoder(witness: Witness, tried: Observed, example: Sample) -> tuple[Decision, ...]:
    """PyTorch's fused encoder layer gives zeros at masked padding, the same layer written out something else."""
    if not any(isinstance(part, nn.TransformerEncoder | nn.TransformerEncoderLayer) for part in witness.module.modules()):
        return ()
    if same(tried.outputs, witness.run(copied(witness.module), example, fused=True)[1], rtol=1e-3):
        return ()
    reason = (
        "its fused operator gives zeros where padding is masked; written out, the layers give numbers there that mean nothing"
    )
    return (Decision(subject="model", choice="computed without PyTorch's fused encoder layer", reason=reason),)


def _beside_tensors(witness: Witness, example: Sample) -> tuple[Decision, ...]:
    names = ", ".join(witness.beside_tensors(example))
    reason = "an artifact returns tensors; what Python computes beside them is the caller's to compute"
    return (Decision(subject="outputs", choice=f"left out: {names}", reason=reason),) if names else ()


def _state_decisions(tried: Observed) -> tuple[Decision, ...]:
    if not tried.written:
        return ()
    reason = "forward writes it, and no output depends on it"
    return (Decision(subject=", ".join(tried.written), choice="not kept between calls", reason=reason),)


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
