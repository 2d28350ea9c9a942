"""Batch norms folded into the convolutions before them, in a module.

An export folds them anyway, which gives each channel a factor of its own: what is to be true of the weights on the device, such
as few values, has to be made true after that.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating
from edgeopt.errors import ForwardError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def foldable(module: nn.Module, example_inputs: Batch) -> dict[str, str]:
    """Paths of batch norms by the path of the convolution whose only consumer they are, as one call shows.

    ``module`` is as before. Raises ForwardError where it does not run.
    """
    watcher = _Watcher(module)
    args, kwargs = call_arguments(example_inputs)
    try:
        with evaluating(module), watcher:
            watcher.used(pytree.tree_leaves(module(*args, **kwargs)))
    except Exception as error:
        fix = "check that it runs on the example inputs"
        raise ForwardError("the model raised in forward", why=cause(error), fix=fix) from error
    finally:
        watcher.close()
    return watcher.pairs()


def fold(module: nn.Module, pairs: dict[str, str]) -> None:
    """Multiplies each batch norm of ``pairs`` (:func:`foldable`) into its convolution, in place; nn.Identity replaces it."""
    for path, norm_path in pairs.items():
        conv: Any = module.get_submodule(path)
        norm: Any = module.get_submodule(norm_path)
        transposed = isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        learns = conv.weight.requires_grad
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, transpose=transposed)
        conv.weight.requires_grad_(learns)
        conv.bias.requires_grad_(learns)  # one that torch has made does not
        parent, _, name = norm_path.rpartition(".")
        setattr(module.get_submodule(parent), name, nn.Identity().train(norm.training))


class _Watcher(TorchFunctionMode):
    """Notices which functions take a convolution's output, besides the batch norm that does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._made: dict[int, tuple[str, Tensor]] = {}  # holding the tensors keeps their ids their own
        self._uses: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._pairs: dict[str, str] = {}
        self._inside = 0
        shared = Counter(id(value) for _, value in module.named_parameters(remove_duplicate=False))
        self._handles = []
        for path, layer in module.named_modules():
            own = not any(shared[id(value)] > 1 for value in layer.parameters())
            if type(layer) in CONVOLUTIONS and own:
                self._handles.append(layer.register_forward_hook(lambda _, args, out, path=path: self._convolved(path, out)))
            elif type(layer) in NORMS and own and layer.running_mean is not None:
                self._handles.append(layer.register_forward_pre_hook(lambda _, args, path=path: self._enter(path, args[0])))
                self._handles.append(layer.register_forward_hook(lambda *_: self._leave()))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def pairs(self) -> dict[str, str]:
        return {
            conv: norm
            for conv, norm in self._pairs.items()
            if not self._uses[conv] and self._calls[conv] == self._calls[norm] == 1
        }

    def used(self, values: Iterable[Any]) -> None:
        for value in values:
            if id(value) in self._made:
                self._uses[self._made[id(value)][0]] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside:
            self.used(pytree.tree_leaves((args, kwargs or {})))
        return func(*args, **(kwargs or {}))

    def _convolved(self, path: str, output: Tensor) -> None:
        self._calls[path] += 1
        self._made[id(output)] = (path, output)

    def _enter(self, path: str, value: Tensor) -> None:
        self._inside += 1
        self._calls[path] += 1
        if id(value) in self._made:
            self._pairs[self._made[id(value)][0]] = path

    def _leave(self) -> None:
        self._inside -= 1
