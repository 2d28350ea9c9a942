"""Hugging Face models that were cut: a configuration that says so, for save_pretrained and from_pretrained.

What a configuration can say is tried, not known by name: the class is built from it without memory (on torch's meta device)
and must come out with the shapes that the cut model has.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeopt.compress.common.head_layouts import AttentionLayer, attention_layers
from edgeopt.core import data_class

LAYER_COUNTS = (
    "num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers",
)  # fmt: skip
MLP_SETTINGS = ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "n_inner", "d_ff")
HEAD_SETTINGS = (
    "num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip
"""``pruned_heads`` in the configuration is what Hugging Face's transformers 4 wrote there and read: heads removed, by layer."""


@data_class
class Told:
    """What ``tell_heads`` could say: ``readable`` by from_pretrained alone, else by :func:`load_pretrained`."""

    models: int = 0
    readable: bool = True


def is_pretrained(module: nn.Module) -> bool:
    """Whether it is a Hugging Face model: it holds a configuration and can be saved with it."""
    return hasattr(module, "save_pretrained") and hasattr(module, "config_class") and hasattr(module, "config")


def outermost(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The Hugging Face models in ``module`` that lie in no other one, by path."""
    found: list[tuple[str, nn.Module]] = []
    for path, child in module.named_modules():
        inside = any(path == outer or not outer or path.startswith(f"{outer}.") for outer, _ in found)
        if is_pretrained(child) and not inside:
            found.append((path, child))
    return found


def rebuilds(model: nn.Module) -> bool:
    """Whether the model's class, made from its configuration, has the shapes that the model has."""
    wanted = _shapes(model)
    try:
        with torch.device("meta"):
            built = _shapes(type(model)(deepcopy(model.config)))
    except Exception:  # a class that cannot be built so cannot be read back either, whatever it raises
        return False
    return all(built.get(name) == shape for name, shape in wanted.items())


def tell_heads(module: nn.Module, removed: Mapping[str, Sequence[int]]) -> Told:
    """Writes what heads are left into the configurations in ``module``; ``removed``: units by the attention layer's path."""
    told = [_tell(path, model, removed) for path, model in outermost(module)]
    return Told(models=len(told), readable=all(told))


def load_pretrained(model_class: type[Any], folder: Path | str, **settings: Any) -> nn.Module:
    """``model_class.from_pretrained(folder)`` for a model saved after heads of some layers, or of BERT's family, were cut."""

    class Cut(model_class):  # type: ignore[misc]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            layers = _layers(self)
            for index, units in (getattr(config, "pruned_heads", None) or {}).items():
                layer = layers[int(index)]
                layer.cut([unit for unit in range(layer.units) if unit not in units])

    # By these transformers tells its own classes, whose weights it renames, from custom code.
    Cut.__name__, Cut.__module__ = model_class.__name__, model_class.__module__
    model: nn.Module = Cut.from_pretrained(folder, **settings)
    model.__class__ = model_class
    return model


def renumber(blocks: Iterable[nn.Module]) -> None:
    """Gives each block its new place: key-value caches find a layer by ``layer_idx``."""
    for index, block in enumerate(blocks):
        for child in block.modules():
            if isinstance(vars(child).get("layer_idx"), int):
                vars(child)["layer_idx"] = index


def tell_layers(module: nn.Module, stack: str, before: int, kept: Sequence[int]) -> None:
    """Writes into the configurations around the stack at path ``stack`` that of ``before`` layers only ``kept`` are left.

    Lists with one entry per layer (kinds of attention, ...) lose the entries of the dropped ones.
    """
    for config in _configs_around(module, stack):
        names = [name for name in _count_names(stack) if getattr(config, name, None) == before]
        for name in names[:1]:
            setattr(config, name, len(kept))
            for field, value in list(vars(config).items()):
                by_layer = isinstance(value, list | tuple) and len(value) == before
                if by_layer and not field.endswith(("_id", "_ids")) and field != "architectures" and field[0] != "_":
                    setattr(config, field, type(value)(value[index] for index in kept))


def pruned_heads(module: nn.Module) -> dict[nn.Module, list[int]]:
    """Heads that configurations say are gone, by the attention layer's own module."""
    found: dict[nn.Module, list[int]] = {}
    for _, model in outermost(module):
        gone = getattr(model.config, "pruned_heads", None) or {}
        layers = _layers(model) if gone else []
        found |= {layers[int(index)].module: list(units) for index, units in gone.items()}
    return found


def tell_pruned_heads(module: nn.Module, gone: Mapping[nn.Module, Sequence[int]]) -> None:
    """Writes what :func:`pruned_heads` found by the numbers that the layers now have."""
    for _, model in outermost(module):
        config: Any = model.config
        if getattr(config, "pruned_heads", None):
            layers = enumerate(_layers(model))
            config.pruned_heads = {index: list(gone[layer.module]) for index, layer in layers if layer.module in gone}


def _count_names(stack: str) -> Sequence[str]:
    """In models with an encoder and a decoder each has a count of its own."""
    if "decoder" in stack.split("."):
        return sorted(LAYER_COUNTS, key=lambda name: "decoder" not in name)
    return LAYER_COUNTS


def _configs_around(module: nn.Module, path: str) -> list[Any]:
    """Configurations of the modules on the way to ``path``, each once, the innermost that says a number of layers first."""
    parts = path.split(".")
    places = [module.get_submodule(".".join(parts[:count])) for count in range(len(parts), -1, -1)]
    configs = [place.config for place in places if hasattr(place, "config")]
    children = [child.config for child in module.get_submodule(path).modules() if hasattr(child, "config")]
    unique = {id(config): config for config in (*configs, *children)}
    return list(unique.values())


def _layers(model: nn.Module) -> list[AttentionLayer]:
    return [layer for layer in attention_layers(model) if isinstance(layer, AttentionLayer)]


def _tell(path: str, model: nn.Module, removed: Mapping[str, Sequence[int]]) -> bool:
    layers = _layers(model)
    prefix = f"{path}." if path else ""
    gone = {index: list(removed[prefix + layer.path]) for index, layer in enumerate(layers) if removed.get(prefix + layer.path)}
    if not gone:
        return True
    before = {id(layer.module.config): dict(vars(layer.module.config)) for layer in layers if hasattr(layer.module, "config")}
    for layer in layers:
        _say(layer)
    if rebuilds(model):
        return True
    for layer in layers:
        if hasattr(layer.module, "config"):
            vars(layer.module.config).clear()
            vars(layer.module.config).update(before[id(layer.module.config)])
    whole: Any = model.config
    earlier = getattr(whole, "pruned_heads", None)
    whole.pruned_heads = gone if not earlier else _joined(earlier, gone, layers)
    return False


def _say(layer: AttentionLayer) -> None:
    """One layer's counts in its configuration; where the layers differ the last one stands there, and does not rebuild."""
    config = getattr(layer.module, "config", None)
    if config is None:
        return
    config.head_dim = layer.head_dim
    for name in HEAD_SETTINGS:
        if name in vars(config):
            setattr(config, name, layer.heads)
    if "num_key_value_heads" in vars(config):
        config.num_key_value_heads = layer.key_value_heads


def _joined(earlier: Mapping[int, Sequence[int]], gone: Mapping[int, Sequence[int]], layers: list[AttentionLayer]) -> Any:
    """Heads removed now are numbered among those that an earlier cut had left: as numbers of the heads at first."""
    joined = {int(index): sorted(units) for index, units in earlier.items()}
    for index, units in gone.items():
        past = joined.get(index, [])
        total = layers[index].units + len(units) + len(past)
        left = [unit for unit in range(total) if unit not in past]
        joined[index] = sorted([*past, *(left[unit] for unit in units)])
    return joined


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
