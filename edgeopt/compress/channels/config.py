"""Hugging Face models with narrower MLPs: a configuration that says so, where it can."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgeopt.compress.common.pretrained import MLP_SETTINGS, outermost, rebuilds


def tell_widths(module: nn.Module, widths: Mapping[str, tuple[int, int]]) -> bool:
    """Writes the new width of the MLPs into the configurations in ``module``; whether from_pretrained will read all back.

    ``widths``: outputs before and after by the path of each layer that became narrower.
    """
    told = [_told(model, [pair for name, pair in widths.items() if _inside(name, path)]) for path, model in outermost(module)]
    return all(told)


def _told(model: Any, widths: list[tuple[int, int]]) -> bool:
    for setting in MLP_SETTINGS:
        after = {new for old, new in widths if old == getattr(model.config, setting, None)}
        if len(after) == 1:
            setattr(model.config, setting, after.pop())
    return rebuilds(model)


def _inside(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")
