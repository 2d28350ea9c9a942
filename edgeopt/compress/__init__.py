"""Techniques that shrink a trained module before export, one file each, usable alone:

    from edgeopt.compress import Channels, Context
    compressed = Channels(measure="macs", amount=0.5).apply(net, Context(example_inputs=image))
    compressed.module, compressed.record             # an ordinary nn.Module, what was done and why; net is as it was

Channels, Heads, Layers: narrower and shorter networks. Magnitude, Lottery, NM: zeros. LowRank: factors. Cluster: few distinct
values. Distill: a student. EarlyExit: stages. Context: what they may use, such as data and training code; Trainer makes
``fit`` of a ``train_step``, and :func:`fine_tune` trains a result without undoing its pattern (``compressed.keep``).

Each family of techniques has a folder, with what the technique stands on; technique.py says what all of them are,
techniques.py their names, and common holds what several share. Beside the techniques: search over the architectures of a
family, and advice on which technique to take. Nothing is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeopt.support import extras

if TYPE_CHECKING:
    from edgeopt.compress.channels.channels import Channels
    from edgeopt.compress.cluster.cluster import Cluster
    from edgeopt.compress.common.training import Trainer, fine_tune
    from edgeopt.compress.distill.distill import Distill
    from edgeopt.compress.early_exit.early_exit import EarlyExit
    from edgeopt.compress.heads.heads import Heads
    from edgeopt.compress.layers.layer_drop import Layers
    from edgeopt.compress.low_rank.low_rank import LowRank
    from edgeopt.compress.technique import Compressed, Context
    from edgeopt.compress.zeros.lottery import Lottery
    from edgeopt.compress.zeros.magnitude import Magnitude
    from edgeopt.compress.zeros.nm import NM

__all__ = [
    "NM", "Channels", "Cluster", "Compressed", "Context", "Distill", "EarlyExit", "Heads", "Layers", "Lottery", "LowRank",
    "Magnitude", "Trainer", "fine_tune",
]  # fmt: skip

_HOMES = {
    "Channels": "channels.channels", "Cluster": "cluster.cluster", "Distill": "distill.distill",
    "EarlyExit": "early_exit.early_exit", "Heads": "heads.heads", "Layers": "layers.layer_drop", "Lottery": "zeros.lottery",
    "LowRank": "low_rank.low_rank", "Magnitude": "zeros.magnitude", "NM": "zeros.nm", "Compressed": "technique",
    "Context": "technique", "Trainer": "common.training", "fine_tune": "common.training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        extras.require("compress", f"edgeopt.compress.{name} cannot be used here")
        return getattr(import_module(f"edgeopt.compress.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgeopt.compress' has no attribute {name!r}")
