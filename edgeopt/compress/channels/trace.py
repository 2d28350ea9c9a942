"""Following channels through a module's forward: which layers read what which layers make, and what happens on the way.

The forward runs as it is while every operator outside of layers is seen (torch's dispatch mode): it does to labels what it does
to values. So views, splits, joins and shuffles are exact, in evaluation and with the user's own modules in training mode, and
no gradient is needed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from edgeopt.compress.channels.labels import Book, along, compact, core, varying
from edgeopt.compress.channels.layers import Ports, Role, input_axis, is_followed, ports
from edgeopt.compress.channels.operators import ATTENTION, GROUP_NORM, LAYER_NORM, Call, labelled
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.common.modes import layer_by_layer
from edgeopt.errors import CompressionError
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments, flat_outputs
from edgeopt.model.user_code import cause

OUTPUT = "they are the model's outputs"
RECURRENT = (
    "a recurrent layer of a kind that is not followed (packed sequences, projections, states given to it) reads or makes them"
)
_FIXED: dict[type[nn.Module], str] = {nn.MultiheadAttention: ATTENTION, nn.RNNBase: RECURRENT, nn.RNNCellBase: RECURRENT}
_NORMS = (nn.LayerNorm, nn.RMSNorm)


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """``module`` is a copy to trace: its layers' forwards are replaced. ``layers``: labels by path and role, of those called;
    ``uncalled``: paths of layers that no run called."""

    def __init__(self, module: nn.Module, example_inputs: Batch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book, self.layers, self.called = Book(), dict[tuple[str, Role], Tensor](), set[str]()
        self._labels = WeakTensorKeyDictionary()
        self._inside = False
        self.parameters = self._label_parameters(module)
        leaves = dict(_leaves(module))
        for path, layer in leaves.items():
            layer.forward = partial(self._call, path, layer, layer.forward)
        self._run(module.eval(), example_inputs)
        self._run_otherwise(module, example_inputs, leaves)
        self.uncalled = {path for path, layer in leaves.items() if path not in self.called and is_followed(layer)}

    def _label_parameters(self, module: nn.Module) -> dict[str, Tensor]:
        """Labels of every parameter that no layer of torch's holds."""
        held = tuple(f"{path}." for path, _ in _leaves(module))
        found = {name: value for name, value in module.named_parameters() if not f"{name}.".startswith(held)}
        labels = {name: self.book.new(value.numel()).view(value.shape) for name, value in found.items() if value.ndim}
        for name, value in labels.items():
            self._labels[found[name]] = value.to(found[name].device)
        self.book.parameters = self.book.count
        return labels

    def _run(self, module: nn.Module, batch: Batch) -> None:
        args, kwargs = call_arguments(batch)
        try:
            with torch.no_grad(), torch.random.fork_rng(), layer_by_layer(), self:
                output = module(*args, **kwargs)
        except Exception as error:
            fix = "check that it runs on the example inputs"
            raise CompressionError("the channels of this model cannot be followed", why=cause(error), fix=fix) from error
        for value in flat_outputs(output)[1]:
            if (labels := self._of(value)) is not None:
                self.book.used(labels)
                self.book.hold(labels, OUTPUT)

    def _run_otherwise(self, module: nn.Module, example_inputs: Batch, leaves: dict[str, nn.Module]) -> None:
        """In training mode, for the user's own modules alone; and on other inputs where layers were not called yet.

        A model may refuse either (it may want targets): then what it calls there stays unknown, and ``uncalled``.
        """
        runs = [example_inputs, *(batch for _, batch in unlike(example_inputs))]
        for number, batch in enumerate(runs):
            if number and all(path in self.called for path in leaves):
                return
            for own in module.modules():
                own.training = number == 0 and not type(own).__module__.startswith("torch.nn.")
            try:
                self._run(module, batch)
            except CompressionError:
                continue

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._inside:
            return output
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self._of(value) is not None for value in tensors):
            self._inside = True
            try:
                self._follow(Call(self.book, func, args, kwargs or {}, self._of, output))
            finally:
                self._inside = False
        return output

    def _follow(self, call: Call) -> None:
        if any(value.ndim for value in call.outputs):
            for value in call.tensors:
                if (labels := self._of(value)) is not None:
                    self.book.used(labels)
        try:
            found = labelled(call)
        except (IndexError, RuntimeError, TypeError, ValueError):  # called in a way that the rule does not know
            found = call.mixed()
        for value, labels in zip(call.outputs, found, strict=False):
            if labels is not None:
                self._labels[value] = labels

    def _of(self, value: Tensor) -> Tensor | None:
        found: Tensor | None = self._labels.get(value)  # type: ignore[no-untyped-call]
        return found

    def _call(self, path: str, layer: nn.Module, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A layer's forward: what it does inside is known, not followed."""
        if self._inside:
            return run(*args, **kwargs)
        self._inside = True
        try:
            output = run(*args, **kwargs)
            self.called.add(path)
            self._pass(path, layer, [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)], output)
        finally:
            self._inside = False
        return output

    def _pass(self, path: str, layer: nn.Module, inputs: list[Tensor], output: Any) -> None:
        outputs = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        known = len(inputs) == 1 and is_followed(layer) and not isinstance(output, nn.utils.rnn.PackedSequence)
        if isinstance(layer, _NORMS):
            self._normalise(layer, inputs[0], outputs[0])
        elif known:
            self._through(path, layer, inputs[0], outputs)
        else:
            reason = next(
                (reason for kind, reason in _FIXED.items() if isinstance(layer, kind)), "a layer of its own reads them"
            )
            for value in inputs:
                if (labels := self._of(value)) is not None:
                    self.book.hold(labels, reason)
            for value in outputs:
                mark = torch.full((1,) * value.ndim, self.book.fixed(reason), device=value.device)
                self._labels[value] = mark.expand(value.shape)

    def _normalise(self, layer: Any, given: Tensor, output: Tensor) -> None:
        if (labels := self._of(given)) is not None:
            if varying(labels) & {labels.ndim - 1 - axis for axis in range(len(layer.normalized_shape))}:
                self.book.hold(labels, LAYER_NORM)
            self._labels[output] = labels

    def _through(self, path: str, layer: nn.Module, given: Tensor, outputs: list[Tensor]) -> None:
        found = ports(layer)
        reads, makes = self._ports(path, found)
        if isinstance(layer, nn.GroupNorm) and layer.num_groups == 1:
            self.book.hold(makes, GROUP_NORM)
        if (labels := self._of(given)) is not None and found.reads:
            self._read(reads, core_channels(labels, input_axis(layer, given.ndim)))
        elif found.reads:
            self.book.hold(reads, "they are the model's inputs, or values that its own code computes")
        for value in outputs:
            axis = value.ndim - 1 if isinstance(layer, nn.RNNBase | nn.Embedding) else input_axis(layer, value.ndim)
            made = makes.repeat(value.shape[axis] // len(makes)).to(value.device)
            self._labels[value] = along(made, axis, value.shape)

    def _ports(self, path: str, found: Ports) -> tuple[Tensor, Tensor]:
        """The labels of a layer's inputs and outputs, with what ties them."""
        if (path, "passes") in self.layers:
            return self.layers[path, "passes"], self.layers[path, "passes"]
        if (path, "makes") in self.layers:
            return self.layers.get((path, "reads"), torch.empty(0)), self.layers[path, "makes"]
        makes = self.book.new(found.makes)
        reads = makes if found.passes else self.book.new(found.reads)
        own: dict[Role, Tensor] = {"passes": makes} if found.passes else {"reads": reads, "makes": makes}
        self.layers |= {(path, role): labels for role, labels in own.items() if len(labels)}
        for role, tied in (found.tied or {}).items():
            self.book.unite(own[role][tied[:, :1]], own[role][tied])
        if found.across is not None:
            self.book.unite(makes, reads[found.across])
        return reads, makes

    def _read(self, reads: Tensor, given: Tensor) -> None:
        """``given`` [channels, n]: the labels at each place that the layer reads."""
        places = reads[:, None].to(given.device).expand(given.shape)
        self.book.unite(places, given)
        self.book.hold_against(places, given)


def core_channels(labels: Tensor, axis: int) -> Tensor:
    """[channels, n]: what differs at each place along ``axis``."""
    size = labels.shape[axis]
    small = core(compact(labels))
    return small.expand(*small.shape[:axis], size, *small.shape[axis + 1 :]).movedim(axis, 0).reshape(size, -1)


def _leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that are seen as a whole, not those inside them."""
    kinds = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.EmbeddingBag, *_NORMS)
    inside: tuple[str, ...] = ()
    for path, layer in module.named_modules():
        if not f"{path}.".startswith(inside) and (isinstance(layer, kinds) or is_followed(layer)):
            inside += (f"{path}." if path else "",)
            yield path, layer
