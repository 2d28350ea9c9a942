"""The proof of what a technique gave back, which knows nothing of how the technique works.

Where nothing was changed the result equals the original, on the example inputs and on inputs unlike them; where only values
were, the original with these values computes the same. It trains: one step forwards and backwards in training mode, in which
layers run that evaluation does not call, and a gradient reaches all that one reached before. It is saved and read back. And it
is exported, where that is asked for: a recipe does at each step; a capture may take longer than the technique.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.common import store
from edgeopt.compress.common.comparing import unequal
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.common.measures import parameters
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.technique import Compressed, Context
from edgeopt.errors import CompressionError, EdgeoptError, InputError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments, flat_outputs
from edgeopt.model.user_code import cause, summary
from edgeopt.support.scratch import scratch

MOST_TRAINED = 500_000_000
"""Parameters up to which a training step is tried: with its gradients a larger model may not fit beside its copies."""
Apply = TypeVar("Apply", bound=Callable[..., Compressed])
_FIX = "exclude that layer, and report the model: this is a fault of the technique's"


def proved(apply: Apply) -> Apply:
    """Around a technique's ``apply``: what it returns has been proved. Raises CompressionError for what has not."""

    @wraps(apply)
    def proving(technique: Any, module: nn.Module, context: Context) -> Compressed:
        return prove(module, apply(technique, module, context), context)

    return proving  # type: ignore[return-value]


def prove(module: nn.Module, result: Compressed, context: Context, exports: bool = False) -> Compressed:
    """``result``, with a note on what could not be tried. Raises CompressionError that names what is wrong, and where."""
    example, technique = context.example_inputs, result.record.technique
    try:
        outputs(copied(module), example)
    except Exception as error:  # the user's forward raises anything
        raise InputError(
            "the model does not run on its example inputs", why=cause(error), fix="give inputs that it takes"
        ) from error
    _prove_equal(module, result, example)
    _prove_saved(module, result.module, example, technique)
    if exports:
        _prove_exported(result.module, example, technique)
    if parameters(result.module) > MOST_TRAINED:
        note = f"no training step was tried: {parameters(result.module):,} parameters and their gradients may not fit in memory"
        return replace(result, record=replace(result.record, notes=(*result.record.notes, note)))
    _prove_trained(module, result.module, example, technique)
    return result


def outputs(module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """In evaluation, with the same random numbers in every run."""
    args, kwargs = call_arguments(batch)
    with evaluating(module), torch.random.fork_rng():
        torch.manual_seed(0)
        return flat_outputs(module(*args, **kwargs))[1]


def _prove_equal(module: nn.Module, result: Compressed, example: Batch) -> None:
    """Where the state has the original's names and shapes, the original with this state is what the result must equal."""
    state, before = result.module.state_dict(), module.state_dict()
    same = {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in before.items()}
    if result.record.changed and (not same or type(result.module) is not type(module)):
        return
    reference = copied(module)
    if result.record.changed:
        reference.load_state_dict(state)
    for name, batch in (("", example), *unlike(example)):
        try:
            expected = outputs(reference, batch)
        except Exception:  # the example inputs are checked by the technique; a model need not take the others
            continue
        try:
            wrong = unequal(outputs(copied(result.module), batch), expected)
        except Exception as error:
            wrong = f"it raised {summary(error, 160)}"
        if wrong:
            why = f"on {f'inputs {name}' if name else 'the example inputs'}: {wrong}"
            raise CompressionError(
                f"{result.record.technique} gave back a model that computes something else", why=why, fix=_FIX
            )


def _prove_saved(module: nn.Module, smaller: nn.Module, example: Batch, technique: str) -> None:
    with scratch() as folder:
        path = folder / "module.pt"
        try:
            store.save(module, path)
        except EdgeoptError:  # made of lambdas or local classes: the user's own module cannot be saved either
            return
        try:
            store.save(smaller, path)
            # A student may be of the user's own classes, which the teacher does not name.
            like = nn.ModuleList([module, smaller]) if technique == "distill" else module
            wrong = unequal(outputs(store.load(path, like=like), example), outputs(smaller, example))
        except EdgeoptError as error:
            wrong = f"{error.what}: {error.why}"
    if wrong:
        raise CompressionError(f"{technique} gave back a model that cannot be saved and read back", why=wrong, fix=_FIX)


def _prove_exported(smaller: nn.Module, example: Batch, technique: str) -> None:
    args, kwargs = call_arguments(example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on recurrent layers' flat weights among others
            program = torch.export.export(copied(smaller).eval(), args, kwargs).module()
            wrong = unequal(flat_outputs(program(*args, **kwargs))[1], outputs(smaller, example))
    except Exception as error:
        wrong = summary(error, 300)
    if wrong:
        raise CompressionError(f"{technique} gave back a model that cannot be exported", why=wrong, fix=_FIX)


def _prove_trained(module: nn.Module, smaller: nn.Module, example: Batch, technique: str) -> None:
    for batch in (example, _doubled(example)):  # batch norms need two samples
        try:
            before = trained(module, batch)
            break
        except Exception:  # the original does not train on inputs alone: it may want targets
            continue
    else:
        return
    where = _Where()
    try:
        after = trained(smaller, batch, where)
    except Exception as error:
        why = f"{where.path or 'the model itself'}: {cause(error)}"
        raise CompressionError(f"{technique} gave back a model that cannot be trained", why=why, fix=_FIX) from error
    lost = [name for name, reached in after.items() if not reached and _reached_before(name, before)]
    if lost:
        why = f"no gradient reaches {lost[0]}, as one did in the original"
        raise CompressionError(f"{technique} gave back a model that cannot be trained", why=why, fix=_FIX)


class _Where:
    """The layer that was entered last."""

    path = ""


def trained(module: nn.Module, batch: Batch, where: _Where | None = None) -> dict[str, bool]:
    """One training step of a copy; whether a gradient reached each parameter."""
    copy = copied(module).train()
    for value in copy.parameters():
        value.requires_grad_(value.is_floating_point())
    for path, layer in copy.named_modules() if where is not None else ():
        layer.register_forward_pre_hook(lambda layer, args, path=path: setattr(where, "path", path))
    args, kwargs = call_arguments(batch)
    with torch.random.fork_rng(), torch.enable_grad():
        found = [value for value in flat_outputs(copy(*args, **kwargs))[1] if value.requires_grad]
        torch.stack([value.float().square().mean() for value in found]).sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(copy.parameters(), lr=1e-6).step()
    return {name: value.grad is not None for name, value in copy.named_parameters()}


def _reached_before(name: str, before: dict[str, bool]) -> bool:
    """Whether a gradient reached the parameter of that name, or every one of the layer that stood where its layer stands."""
    if name in before:
        return before[name]
    path = name
    while path := path.rpartition(".")[0]:
        if own := [reached for other, reached in before.items() if other.startswith(f"{path}.")]:
            return all(own)
    return False


def _doubled(batch: Batch) -> Batch:
    double = lambda leaf: torch.cat((leaf, leaf)) if isinstance(leaf, Tensor) and leaf.ndim else leaf  # noqa: E731
    found: Batch = pytree.tree_map(double, batch)
    return found
