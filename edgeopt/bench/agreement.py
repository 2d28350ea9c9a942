"""The device's outputs against this computer's, and the user's ``evaluate`` fed by the device's own predictions.

``evaluate`` runs twice: first here, which tells what it will ask for; all of that is computed on the device in one go; then
again, with the device's answers. So it needs no conversation with the device, and no line of the user's code runs there.
"""

from collections.abc import Callable, Sequence

import numpy as np

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inputs import Array
from edgeopt.bench.place import Place
from edgeopt.bench.types import Agreement
from edgeopt.converters.values import from_artifact, to_artifact
from edgeopt.core import TensorSpec
from edgeopt.errors import BadAnswer, EvaluationError, VerificationFailed
from edgeopt.model import evaluation
from edgeopt.model.evaluation import digest
from edgeopt.model.model import Evaluate
from edgeopt.targets.schema import Checks
from edgeopt.verify import verdicts

BATCH_BYTES = 64 << 20
"""Inputs of one go on the device: they stand on its disk."""

LOWEST_SQNR_DB = Checks().float_sqnr_db

Host = Callable[[tuple[Array, ...]], tuple[Array, ...]]
"""The same artifact on this computer's runtime, or another one that stands in where that is not possible."""


def agreement(runnable: Runnable, here: Sequence[tuple[Array, ...]], there: Sequence[Sequence[Array]]) -> Agreement:
    """``there``: the artifact's own outputs on the device, for each sample; ``here``: what :data:`Host` gives for the same.

    Raises BadAnswer where their shapes differ.
    """
    found = [from_artifact(tuple(outputs), runnable.outputs) for outputs in there]
    for one, other in zip(here, found, strict=True):
        if (shapes := [array.shape for array in other]) != (due := [array.shape for array in one]):
            fix = "try the same artifact on local, then compare lines.jsonl"
            raise BadAnswer(f"{runnable.name} gave outputs of other shapes there", why=f"{shapes} instead of {due}", fix=fix)
    exact = all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for one, other in zip(here, found, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    reference, candidate = list(here), list(found)
    return Agreement(
        bit_exact=exact,
        sqnr_db=verdicts.worst_part_db(reference, candidate),
        max_abs_error=verdicts.max_abs_error(reference, candidate),
        samples=len(found),
    )


def refuse_noise(runnable: Runnable, device: str, found: Agreement | None) -> None:
    """Raises VerificationFailed where a part of the device's outputs is lost: its time is that of another model."""
    if found is not None and found.sqnr_db is not None and found.sqnr_db < LOWEST_SQNR_DB:
        raise VerificationFailed(
            f"{runnable.name} computes something else on {device}",
            why=f"{found.sqnr_db:.1f} dB against the same artifact on this computer",
            fix="its kernels are wrong for this processor: try another version of the runtime there, or another accelerator",
        )


def evaluated(
    place: Place, runnable: Runnable, function: Evaluate, specs: tuple[TensorSpec, ...], host: Host, same_artifact: bool
) -> tuple[dict[str, float], Agreement | None]:
    """The user's numbers on the device, and how its predictions compare with ``host``'s where that runs the same artifact.

    Raises EvaluationError where the function asks for other inputs the second time.
    """
    asked: dict[bytes, tuple[Array, ...]] = {}
    answers: dict[bytes, tuple[Array, ...]] = {}

    def record(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        key = digest(arrays)
        if key not in asked:
            asked[key] = tuple(np.array(array) for array in arrays)
            answers[key] = host(arrays)
        return answers[key]

    evaluation.evaluate(function, record, specs, "this computer")
    sizes = [tuple(array.size for array in outputs) for outputs in answers.values()] if same_artifact else []
    there = _predictions(place, runnable, [to_artifact(arrays, runnable.inputs) for arrays in asked.values()], sizes)
    device = dict(zip(asked, (from_artifact(tuple(outputs), runnable.outputs) for outputs in there), strict=True))

    def replay(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        try:
            return device[digest(arrays)]
        except KeyError:
            raise EvaluationError(
                "evaluate asked for other inputs the second time", why="it ran once here, then on the device's answers",
                fix="fix its random seed, and let no input depend on a prediction",
            ) from None  # fmt: skip

    numbers = evaluation.evaluate(function, replay, specs, place.name)
    return numbers, agreement(runnable, list(answers.values()), there) if same_artifact and there else None


def _predictions(
    place: Place, runnable: Runnable, samples: list[tuple[Array, ...]], sizes: list[tuple[int, ...]]
) -> list[list[Array]]:
    """``sizes``: elements of the same artifact's outputs here, for each sample; empty where it does not run here."""
    found: list[list[Array]] = []
    begin, size = 0, 0
    for end, sample in enumerate(samples, start=1):
        size += sum(array.nbytes for array in sample)
        if size >= BATCH_BYTES or end == len(samples):
            elements = tuple(map(sum, zip(*sizes[begin:end], strict=True))) or None
            found += place.predict(runnable, samples[begin:end], elements)
            begin, size = end, 0
    return found
