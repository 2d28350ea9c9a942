"""Which layers a sensitivity scan says to leave whole: those that lose much and save little."""

from edgeopt.compress.advice.sensitivity import Sensitivity

AMOUNT = 0.5
"""Of a layer's channels: what it loses without them is compared."""
OUT_OF_PROPORTION = 2.0
"""Times its share of the work: from this share of all losses on a layer is better left whole."""
NOTICEABLE = 0.01
"""Of the score: a loss up to here is none, where the user allows no other."""
MOST_WORK = 1 / 3
"""Of the scanned multiply-accumulates: were more left whole, nothing would be gained."""


def too_sensitive(found: Sensitivity, max_drop: float | None = None) -> dict[str, str]:
    """Layers that channel pruning had better leave, the most sensitive first, and why in a few words.

    Every layer can lose some channels once the others are trained around it; so a layer stays only where it loses more than
    ``max_drop``, and out of proportion to its work: there the same MACs are cheaper elsewhere.
    """
    amount = min(found.amounts, key=lambda one: abs(one - AMOUNT))
    drops = {point.layer: found.base - point.score for point in found.points if point.amount == amount}
    lost = sum(max(drop, 0.0) for drop in drops.values())
    work = sum(found.macs[layer] for layer in drops)
    allowed = NOTICEABLE * abs(found.base) if max_drop is None else max_drop
    kept, spent = dict[str, str](), 0.0
    for layer, drop in sorted(drops.items(), key=lambda one: -one[1]):
        share = found.macs[layer] / max(work, 1)
        if layer and drop > allowed and drop / lost >= OUT_OF_PROPORTION * share and spent + share <= MOST_WORK:
            kept[layer] = (
                f"{layer} loses {drop:.3f} of {found.metric} without {amount:.0%} of its channels, for {share:.0%} of the work"
            )
            spent += share
    return kept
