"""Techniques by the names that recipes use; each is imported when it is used."""

from importlib import import_module
from typing import Any

from edgeopt.compress.technique import Technique
from edgeopt.errors import UnknownName, did_you_mean
from edgeopt.support.untrusted import shown

TECHNIQUES = {
    "channels": "edgeopt.compress.channels.channels:Channels",
    "heads": "edgeopt.compress.heads.heads:Heads",
    "layers": "edgeopt.compress.layers.layer_drop:Layers",
    "magnitude": "edgeopt.compress.zeros.magnitude:Magnitude",
    "lottery": "edgeopt.compress.zeros.lottery:Lottery",
    "nm": "edgeopt.compress.zeros.nm:NM",
    "low-rank": "edgeopt.compress.low_rank.low_rank:LowRank",
    "cluster": "edgeopt.compress.cluster.cluster:Cluster",
    "distill": "edgeopt.compress.distill.distill:Distill",
    "early-exit": "edgeopt.compress.early_exit.early_exit:EarlyExit",
}


def technique(name: str) -> type[Technique]:
    """The settings class of a technique. Raises UnknownName with the known ones."""
    if name not in TECHNIQUES:
        why = f"known techniques: {', '.join(TECHNIQUES)}"
        raise UnknownName(
            f"there is no technique {shown(name)}", why=why, fix=did_you_mean(name, TECHNIQUES) or "use one of these"
        )
    module, _, attribute = TECHNIQUES[name].partition(":")
    found: Any = getattr(import_module(module), attribute)
    return found  # type: ignore[no-any-return]
