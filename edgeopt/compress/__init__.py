"""Techniques that shrink a trained module before export, one file each, usable alone:

    from edgeopt.compress import Channels, Context
    compressed = Channels(measure="macs", amount=0.5).apply(net, Context(example_inputs=image))
    compressed.module, compressed.record             # an ordinary nn.Module, what was done and why; net is as it was

Channels, Heads, Layers: narrower and shorter networks. Magnitude, Lottery, NM: zeros. LowRank: factors. Cluster: few distinct
values. Distill: a student. EarlyExit: stages. Context: what they may use, such as data and training code; Trainer makes
``fit`` of a ``train_step``, and :func:`fine_tune` trains a result without undoing its pattern (``compressed.keep``).

Beside these: students, search, sensitivity and pattern. What several of them share stands in the folders: structure
(channels, heads, layers), sparsity, factors, teaching, stages, families, and planner. Nothing is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeopt import extras

if TYPE_CHECKING:
    from edgeopt.compress.channels import Channels
    from edgeopt.compress.cluster import Cluster
    from edgeopt.compress.distill import Distill
    from edgeopt.compress.early_exit import EarlyExit
    from edgeopt.compress.heads import Heads
    from edgeopt.compress.layer_drop import Layers
    from edgeopt.compress.lottery import Lottery
    from edgeopt.compress.low_rank import LowRank
    from edgeopt.compress.magnitude import Magnitude
    from edgeopt.compress.nm import NM
    from edgeopt.compress.technique import Compressed, Context
    from edgeopt.compress.training import Trainer, fine_tune

__all__ = [
    "NM", "Channels", "Cluster", "Compressed", "Context", "Distill", "EarlyExit", "Heads", "Layers", "Lottery", "LowRank",
    "Magnitude", "Trainer", "fine_tune",
]  # fmt: skip

_HOMES = {
    "Channels": "channels", "Cluster": "cluster", "Distill": "distill", "EarlyExit": "early_exit", "Heads": "heads",
    "Layers": "layer_drop", "Lottery": "lottery", "LowRank": "low_rank", "Magnitude": "magnitude", "NM": "nm",
    "Compressed": "technique", "Context": "technique", "Trainer": "training", "fine_tune": "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        extras.require("compress", f"edgeopt.compress.{name} cannot be used here")
        return getattr(import_module(f"edgeopt.compress.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgeopt.compress' has no attribute {name!r}")
