"""Fine-tuning: the user's ``fit(model, epochs)``, or a trainer around ``train_step(model, batch) -> loss``.

Either way a pattern (zeros, shared weights) survives every optimizer step, a loss that is not finite stops the training
with the module as it was before, and the module comes back in the mode it had.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from edgeopt.compress.common.copying import not_finite
from edgeopt.compress.common.modes import modes_kept
from edgeopt.compress.technique import Fit, Keep, TrainBatches, TrainStep
from edgeopt.errors import EdgeoptError, TrainingFailed
from edgeopt.model.user_code import cause, summary
from edgeopt.support.files import write_atomic


@dataclass(slots=True, kw_only=True)
class Trainer:
    """The built-in trainer: AdamW, cosine schedule over all epochs. ``batches`` are gone through once per epoch.

    ``optimizer`` takes parameters and gives the optimizer. ``checkpoint``: a file written after every epoch, from which the
    same training goes on after a crash; removed at the end. ``score`` (higher is better) after each epoch keeps the best
    weights, and with ``patience`` ends the training after that many epochs without a better one. ``tell``: a line per epoch.
    """

    train_step: TrainStep
    batches: TrainBatches
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None
    checkpoint: Path | None = None
    score: Callable[[nn.Module], float] | None = None
    patience: int | None = None
    tell: Callable[[str], None] = lambda line: None

    def fit(self, module: nn.Module, epochs: int) -> None:
        """Trains ``module`` in place. Raises TrainingFailed where a loss is not finite or the user's code raises."""
        state = _State(self, module, epochs)
        state.resume()
        while state.epoch < epochs and not state.exhausted:
            loss = self._epoch(module, state)
            score = state.after_epoch()
            self.tell(f"epoch {state.epoch} of {epochs}: loss {loss:.4g}" + ("" if score is None else f", score {score:.4g}"))
        state.finish()

    def _epoch(self, module: nn.Module, state: "_State") -> float:
        """The mean loss."""
        module.train()
        losses: list[float] = []
        for number, batch in enumerate(self.batches() if callable(self.batches) else self.batches):
            loss = _a_loss(self.train_step(module, batch))
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise _diverged(f"the loss of batch {number} in epoch {state.epoch + 1} is {losses[-1]}")
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            state.optimizer.step()
        if not losses:
            fix = "give a list, or a function that gives the batches anew at each call: a generator is empty after one epoch"
            raise TrainingFailed(f"epoch {state.epoch + 1} has no batches", fix=fix)
        return sum(losses) / len(losses)


class _State:
    """What a training remembers between two epochs, in memory and in the checkpoint."""

    def __init__(self, trainer: Trainer, module: nn.Module, epochs: int) -> None:
        self._trainer, self._module = trainer, module
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        make = trainer.optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=trainer.learning_rate))
        self.optimizer = make(trained)
        factor = (lambda epoch: 1.0) if trainer.schedule == "constant" else (lambda epoch: _cosine(epoch, epochs))
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.epoch, self._since_best = 0, 0
        self._best: float | None = None
        self._best_state: dict[str, Any] = {}

    @property
    def exhausted(self) -> bool:
        """Whether there were ``patience`` epochs without a better score."""
        return self._trainer.patience is not None and self._since_best >= self._trainer.patience

    def after_epoch(self) -> float | None:
        """Scores, remembers and writes; gives the score."""
        self.epoch += 1
        self._scheduler.step()
        score = None
        if self._trainer.score is not None:
            self._module.eval()
            score = self._trainer.score(self._module)
            if self._best is None or score > self._best:
                self._best, self._since_best = score, 0
                self._best_state = deepcopy(self._module.state_dict())
            else:
                self._since_best += 1
        if self._trainer.checkpoint is not None:
            _write(self._trainer.checkpoint, self._data())
        return score

    def resume(self) -> None:
        """Goes on from the checkpoint where there is one. Raises TrainingFailed where it is of another training, or damaged."""
        path = self._trainer.checkpoint
        if path is None or not path.exists():
            return
        try:
            self._take(torch.load(path, weights_only=True))
        except Exception as error:
            fix = f"delete {path} to start this training anew"
            raise TrainingFailed(f"{path} does not fit this training", why=summary(error), fix=fix) from error

    def _take(self, data: dict[str, Any]) -> None:
        self._module.load_state_dict(data["module"])
        self.optimizer.load_state_dict(data["optimizer"])
        self._scheduler.load_state_dict(data["scheduler"])
        torch.set_rng_state(data["random"])
        self.epoch, self._best, self._since_best = data["epoch"], data["best"], data["since_best"]
        self._best_state = data["best_state"]

    def finish(self) -> None:
        if self._best_state:
            self._module.load_state_dict(self._best_state)
        if self._trainer.checkpoint is not None:
            self._trainer.checkpoint.unlink(missing_ok=True)

    def _data(self) -> dict[str, Any]:
        return {
            "module": self._module.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(), "random": torch.get_rng_state(), "epoch": self.epoch,
            "best": self._best, "since_best": self._since_best, "best_state": self._best_state,
        }  # fmt: skip


def fine_tune(fit: Fit, module: nn.Module, epochs: int, keep: Keep | None = None) -> None:
    """Runs ``fit`` on ``module`` in place, ``keep``'s pattern restored after each step of any optimizer.

    Raises TrainingFailed, with ``module`` as it was before, where ``fit`` raises or leaves a weight that is not finite.
    """
    before = deepcopy(module.state_dict())
    try:
        with modes_kept(module), _kept(module, keep):
            fit(module, epochs)
        if broken := not_finite(module):
            raise _diverged(f"{broken} holds NaN or infinity afterwards")
    except BaseException as error:
        module.load_state_dict(before)
        if isinstance(error, EdgeoptError) or not isinstance(error, Exception):
            raise
        fix = "fit(model, epochs) trains in place; train_step(model, batch) returns the loss"
        raise TrainingFailed("the training code raised", why=cause(error), fix=fix) from error


@contextmanager
def _kept(module: nn.Module, keep: Keep | None) -> Iterator[None]:
    """While it lasts, every optimizer of this process restores the pattern: a user's own one cannot be asked to."""
    if keep is None:
        yield
        return
    restore = keep(module)
    handle = register_optimizer_step_post_hook(lambda *_: restore())
    try:
        yield
        restore()
    finally:
        handle.remove()


def _a_loss(value: object) -> Tensor:
    """``value``, which the user's train_step gave. Raises TrainingFailed where nothing can be learnt from it."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return value
    given = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        given = f"a tensor of shape {list(value.shape)}" if value.numel() != 1 else "a tensor without a gradient"
    fix = "return the loss of one batch, a scalar that was computed from the module's parameters by torch"
    raise TrainingFailed(f"train_step gave {given}, which is no loss", fix=fix)


def _diverged(why: str) -> TrainingFailed:
    return TrainingFailed("the training diverged", why=why, fix="lower the learning rate, or compress less before it")


def _cosine(epoch: int, epochs: int) -> float:
    """Loshchilov & Hutter, 2017 (arXiv:1608.03983), without restarts; the last epoch still learns a little."""
    return 0.5 * (1 + math.cos(math.pi * epoch / max(epochs, 1)))


def write_state(path: Path, module: nn.Module) -> None:
    """The weights of ``module`` for ``torch.load(path, weights_only=True)``, all of them or none."""
    _write(path, module.state_dict())


def _write(path: Path, data: dict[str, Any]) -> None:
    import io

    buffer = io.BytesIO()
    torch.save(data, buffer)
    write_atomic(path, buffer.getvalue())
