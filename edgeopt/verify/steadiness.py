"""How near a model stays to itself: what nobody can ask of an artifact is to be nearer."""

import numpy as np
import torch

from edgeopt.capture import Captured
from edgeopt.capture.rounding import moved
from edgeopt.verify import verdicts
from edgeopt.verify.parts import MAX_SQNR_DB
from edgeopt.verify.reference_outputs import ReferenceOutputs

SEEDS = range(5)


def steadiness(captured: Captured, known: ReferenceOutputs) -> float:
    """SQNR in dB of the user's own module against itself, when its weights and inputs move by one rounding: the least of five.

    Of a network of smooth operators over 100 dB; a floor, a comparison or an order of near-equal numbers falls the other way
    here and there. Where the module takes no such weights it counts as steady.
    """
    if captured.in_low_precision:
        return MAX_SQNR_DB
    found = [MAX_SQNR_DB]
    pairs = [*zip(known.samples, known.outputs, strict=True), *zip(known.unlike, known.unlike_outputs, strict=True)]
    for seed in SEEDS:
        generator, witness = torch.Generator().manual_seed(seed), captured.witness.perturbed(seed)
        for sample, outputs in pairs:
            inputs = [torch.from_numpy(np.asarray(array)) for array in sample]
            inputs = [moved(value, generator) if value.is_floating_point() else value for value in inputs]
            try:
                other = tuple(output.numpy() for output in witness(*inputs))
            except Exception:  # what the user's forward raises
                continue
            if all(one.shape == two.shape for one, two in zip(outputs, other, strict=True)):
                found.append(verdicts.sqnr_db([outputs], [other]))
    return min(found)
