"""The host that an export's workers are forked from: what it imports, for which formats."""

from collections.abc import Iterable

from edgeopt import registry
from edgeopt.targets.schema import TargetProfile
from edgeopt.worker.client import WorkerHost

PRELOAD = ("edgeopt.pipeline.tasks", "torch", "torchao.quantization.pt2e", "edgeopt.converters.warm:programs")
"""What every worker needs: imported once, before workers are forked; each format adds its own."""
PRELOAD_LAST = "edgeopt.converters.warm:listed"


def preload(formats: Iterable[str]) -> tuple[str, ...]:
    """What workers of these formats import before they are forked."""
    own = (module for form in dict.fromkeys(formats) for module in registry.converter(form).preload)
    return (*PRELOAD, *own, PRELOAD_LAST)


def host_for(profiles: Iterable[TargetProfile]) -> WorkerHost:
    """A host for what these targets need, not started yet. Imports no torch: it may import beside the user's model."""
    return WorkerHost(preload(fmt for profile in profiles for fmt in profile.formats))
