"""The canonical program, compared with the user's own module before anything is made from it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from edgeopt.capture.equivalence import Case, Deviation, Reference
from edgeopt.capture.rewriting import EXPORT, FLOAT32, MASKS, RewritingStage, stages
from edgeopt.capture.state import Observed
from edgeopt.capture.unlike import Sample
from edgeopt.capture.witness import Witness
from edgeopt.core import Decision
from edgeopt.errors import CaptureError

aten = torch.ops.aten
_NOTHING = -1e30  # a row of scores below this is masked as a whole
_LOW_PRECISION = 100  # roundings of 16 bits


def canonical(
    program: ExportedProgram, witness: Witness, tried: Observed, example: Sample, others: list[Sample]
) -> tuple[ExportedProgram, list[Sample], tuple[Decision, ...]]:
    """``program`` rewritten for every target, those of ``others`` on which it can be judged, and what was decided on the way.

    Raises CaptureError where it computes anything else than the user's module, naming the rewriting that did it.
    """
    given = tuple(value.to(dtype) for value, dtype in zip(example, witness.dtypes, strict=True))
    reference = _reference(witness, tried, example, others)
    reference.says_nothing = partial(_attends_to_nothing, program, given)
    for limited in (True, False):
        copied: list[str] = []
        for stage in stages(program, given, example, limited):
            last = stage
            copied += stage.copied
        deviation = reference.deviation(last.runner())
        if deviation is None:
            return last.program(), _judged(reference, others), (*_copies(copied), *_masks(limited))
        guilty = _guilty(reference, stages(program, given, example, limited), bool(witness.low))
        if guilty != MASKS:
            raise _changed(guilty, deviation, tried.names)
    raise AssertionError("a deviation without the rewriting of masks that masks are to blame for")


def _guilty(reference: Reference, found: Iterator[RewritingStage], low: bool) -> str:
    """The first stage that computes something else; before ``FLOAT32`` a 16-bit model differs by its own rounding."""
    name = ""
    for stage in found:
        name = stage.name
        low = low and name != FLOAT32
        if not low and reference.deviation(stage) is not None:
            break
    return name


def _reference(witness: Witness, tried: Observed, example: Sample, others: list[Sample]) -> Reference:
    """The module itself; one in 16 bits is compared as a copy in float32 where it runs so, else as exactly as 16 bits are."""
    first = Case("the example", example, tried.outputs)
    if witness.low:
        try:
            exact = witness.in_float32()
            first = Case(first.label, example, exact(*example))
        except (Exception, SystemExit):  # what the user's forward raises
            exact = None
        if exact is None or witness.low - witness.floats():
            return Reference(witness, [first], tolerance=_LOW_PRECISION * max(torch.finfo(dtype).eps for dtype in witness.low))
        witness = exact
    return Reference(witness, [first, *_unlike_cases(witness, others)])


def _unlike_cases(witness: Witness, others: list[Sample]) -> Iterator[Case]:
    for number, sample in enumerate(others):
        try:
            wanted = witness(*sample)
        except (Exception, SystemExit):  # a model need not take such inputs
            continue
        if not any(bool(torch.isnan(value).any()) for value in wanted if value.is_floating_point()):
            yield Case(f"inputs unlike the example (kind {number})", sample, wanted)


def _judged(reference: Reference, others: list[Sample]) -> list[Sample]:
    """``others`` but for those that say nothing: what no rewriting can be held to, no artifact can be."""
    return [sample for sample in others if not any(sample is left for left in reference.left_out)]


def _attends_to_nothing(program: ExportedProgram, given: Sample, sample: Sample) -> bool:
    """Whether a softmax somewhere sees a row that is masked as a whole: attention to nothing has no value that could be kept.

    ``given`` has the dtypes that ``program`` takes.
    """
    found: list[bool] = []

    class Watcher(Interpreter):
        def run_node(self, node: Node) -> Any:
            arguments = self.fetch_args_kwargs_from_env(node)[0]
            if node.target is aten.scaled_dot_product_attention.default and len(arguments) > 3 and arguments[3] is not None:
                found.append(_masks_a_row(arguments[3]))
            if node.target in (aten.softmax.int, aten._softmax.default):
                found.append(bool((arguments[0].amax(arguments[1]) < _NOTHING).any()))
            return super().run_node(node)

    with torch.no_grad():
        own = (value.to(taken.dtype) for value, taken in zip(sample, given, strict=True))
        Watcher(program.module(check_guards=False)).run(*own)
    return any(found)


def _masks_a_row(mask: Tensor) -> bool:
    return bool((~mask.any(-1)).any() if mask.dtype == torch.bool else (mask.amax(-1) < _NOTHING).any())


def _copies(names: list[str]) -> Iterator[Decision]:
    if names:
        choice = "each convolution that takes in a batch norm gets a copy of its own"
        reason = "the weight is read elsewhere too; a norm left behind would cost two operators at every inference"
        yield Decision(subject=", ".join(dict.fromkeys(names)), choice=choice, reason=reason)


def _masks(limited: bool) -> Iterator[Decision]:
    if not limited:
        reason = "made finite they would change what the model computes"
        yield Decision(subject="masks", choice="kept as large as they are", reason=reason)


def _changed(stage: str, deviation: Deviation, names: tuple[str, ...]) -> CaptureError:
    if stage == EXPORT:
        return CaptureError(
            "the program that torch.export captured does not compute what the model computes",
            why=deviation.describe(names),
            fix="forward takes for a constant what is none: Python numbers, .item(), numpy, branches that depend on values",
        )
    if stage == FLOAT32:
        return CaptureError(
            "the model computes in float64 and needs its digits, which artifacts do not have: they compute in float32",
            why=deviation.describe(names),
            fix="take large offsets off before the model, so that differences stay small, or compute that part behind it",
        )
    return CaptureError(
        f"edgeopt's own rewriting ({stage}) changes what the model computes",
        why=deviation.describe(names),
        fix="this is a fault of edgeopt: report it with the layers around that output; nothing was exported",
    )
