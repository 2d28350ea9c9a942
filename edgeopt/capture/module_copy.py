"""edgeopt's own copy of the user's module: out of its wrappers, on the CPU, and able to run; the user's is never changed."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from edgeopt.core import Decision
from edgeopt.errors import ModelError
from edgeopt.model.user_code import summary

_FLOAT_MODEL = "give the float model that it was made from: edgeopt quantizes for each target itself"


def own_copy(given: object) -> tuple[nn.Module, tuple[Decision, ...]]:
    """A copy of the module in eval mode that shares nothing with it, and what had to be decided for that.

    Raises ModelError for what is no module, cannot be copied, holds no values or is quantized already.
    """
    if isinstance(given, ExportedProgram):
        return _copied_or_refused(given.module(check_guards=False)), ()
    if not isinstance(given, nn.Module):
        raise ModelError(f"the model is a {_kind(given)}, not a torch.nn.Module", fix=_WRAP)
    module, decisions = _unwrapped(given)
    _refuse_what_cannot_run(module)
    copy = _copied_or_refused(module)
    devices = sorted({value.device.type for value in _tensors(copy)} - {"cpu"})
    if devices:
        copy.cpu()
        reason = "its answers are computed here, where the artifacts are proven"
        decisions = (*decisions, Decision(subject="model", choice=f"moved from {', '.join(devices)} to the CPU", reason=reason))
    _without_compiled_children(copy)
    return copy.eval(), (*decisions, *_without_observers(copy))


_WRAP = "write class Net(torch.nn.Module) whose forward calls it and whose __init__ holds its modules, and give Net()"


def _kind(given: object) -> str:
    name = type(given).__name__
    return f"{name} ({given.__name__})" if name in ("function", "method") and hasattr(given, "__name__") else name


def _unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[Decision, ...]]:
    """What ``torch.compile`` and the data-parallel wrappers hold: they change where and how it runs, not what it computes."""
    wrappers = []
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            break
        wrappers.append(type(module).__name__)
        module = inner
    reason = "it changes where and how the model runs, not what it computes"
    return module, tuple(Decision(subject="model", choice=f"taken out of {name}", reason=reason) for name in wrappers)


def _refuse_what_cannot_run(module: nn.Module) -> None:
    for name, part in module.named_modules():
        kind, where = type(part), f"layer {name}" if name else "the model"
        if kind.__name__ == "FullyShardedDataParallel":
            fix = "load its full state dict into the module that was wrapped, and give that one"
            raise ModelError(f"{where} is sharded by FullyShardedDataParallel: its weights are not all here", fix=fix)
        if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ModelError(f"{where} is quantized already ({kind.__name__})", fix=_FLOAT_MODEL)
        enabled = getattr(part, "fake_quant_enabled", None)
        if isinstance(enabled, Tensor) and bool(enabled.any()):
            why = "its rounding would be frozen into every artifact, beside the target's own"
            fix = f"model.apply(torch.ao.quantization.disable_fake_quant), or {_FLOAT_MODEL}"
            raise ModelError(f"{where} fakes quantization ({kind.__name__})", why=why, fix=fix)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        _refuse_odd(name, value)


def _refuse_odd(name: str, value: Tensor) -> None:
    if is_lazy(value):
        raise ModelError(f"{name} has no shape yet: its layer is lazy", fix="run the model once, then give it")
    if value.is_meta:
        raise ModelError(f"{name} is on the meta device: it has no values", fix="load the weights before giving the model")
    if value.is_quantized or type(value.data) is not Tensor:
        kind = type(value.data).__name__ if type(value.data) is not Tensor else value.dtype
        fix = "gather it with full_tensor()" if kind == "DTensor" else _FLOAT_MODEL
        raise ModelError(f"{name} is no plain tensor but a {kind}", fix=fix)


def _without_compiled_children(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
                setattr(parent, name, inner)


def _without_observers(module: nn.Module) -> Iterator[Decision]:
    """Observers and switched-off fake quantization hand on what they get; their bookkeeping cannot be exported."""
    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            observes = any(base.__name__ in ("ObserverBase", "FakeQuantizeBase") for base in type(child).__mro__)
            if observes:
                setattr(parent, name, nn.Identity())
                found += 1
    if found:
        reason = "they hand on what they get, and edgeopt calibrates for each target itself"
        yield Decision(subject="model", choice=f"{found} observers left out", reason=reason)


def _copied_or_refused(module: nn.Module) -> nn.Module:
    try:
        return copied(module)
    except Exception as error:
        fix = "make copy.deepcopy(model) work, or give torch.export.export(model, inputs)"
        raise ModelError("the module cannot be copied", why=summary(error), fix=fix) from error


class _Detaching(TorchFunctionMode):
    """Inside, results of a computation are copied without it: torch refuses them, and a trained module may hold some."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            value, memo = args
            memo[id(value)] = value.detach().clone()
            return memo[id(value)]
        return func(*args, **(kwargs or {}))


def copied(module: nn.Module, shared: tuple[Tensor, ...] = ()) -> nn.Module:
    """A copy that shares no tensor with ``module`` but ``shared``."""
    with _Detaching():
        return deepcopy(module, {id(value): value for value in shared})


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
