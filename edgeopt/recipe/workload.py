"""The recipe's references made into what techniques take: the module, its data, its training."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from edgeopt.compress.common.scoring import score
from edgeopt.compress.common.training import Trainer
from edgeopt.compress.distill.distill import named
from edgeopt.compress.search.latency_goal import has_amount
from edgeopt.compress.technique import Context, Fit, Technique
from edgeopt.compress.techniques import TECHNIQUES
from edgeopt.compress.techniques import technique as technique_of
from edgeopt.core import from_data
from edgeopt.errors import ConfigError, ModelError, UsageError, did_you_mean
from edgeopt.model.model import Model
from edgeopt.model.references import load_model, resolve
from edgeopt.recipe.schema import Recipe, Step
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that a recipe names, loaded; nothing of it is changed by compressing."""

    recipe: Recipe
    model: Model
    module: nn.Module
    techniques: tuple[Technique, ...]
    profile: TargetProfile | None
    fit: Fit | None
    train_step: Callable[..., Any] | None
    train_batches: Callable[..., Any] | None
    held_out: Callable[..., Any] | None

    def context(self, number: int, tell: Callable[[str], None], folder: Path) -> Context:
        """What the technique of step ``number`` may use; its training keeps checkpoints in ``folder``."""
        step = self.recipe.steps[number - 1]
        return Context(
            example_inputs=self.model.example_inputs, batches=self.model.calibration, evaluate=self.model.evaluate,
            fit=self.training(step, folder), profile=self.profile, tell=tell,
            train_step=self.train_step, train_batches=self.train_batches, held_out=self.held_out,
            checkpoint=folder / "technique.pt",
        )  # fmt: skip

    def training(self, step: Step, folder: Path) -> Fit | None:
        """Fine-tuning with the step's learning rate; None where the recipe has no training.

        A checkpoint is named after the weights that the training began with: a technique may train more than once.
        """
        train_step, batches = self.train_step, self.train_batches
        if train_step is None or batches is None:
            return self.fit
        said = self.recipe.training

        def fit(module: nn.Module, epochs: int) -> None:
            Trainer(
                train_step=train_step, batches=batches, schedule=said.schedule,
                learning_rate=step.learning_rate or said.learning_rate,
                checkpoint=folder / f"training-{digest(module)}-{epochs}.pt",
            ).fit(module, epochs)  # fmt: skip

        return fit

    def students(self) -> list[nn.Module]:
        """The networks that steps name to learn from the model."""
        named_by = (getattr(technique, "student", "") for technique in self.techniques)
        return [named(reference) for reference in named_by if reference]

    def scores(self, module: nn.Module) -> dict[str, float]:
        """The user's numbers for ``module``, predicted by PyTorch; none without ``evaluate``. Raises EvaluationError."""
        if self.model.evaluate is None:
            return {}
        return score(module, self.model.evaluate, self.model.example_inputs)


def load(recipe: Recipe) -> Workload:
    """Loads all references and checks all settings before any work. Raises what loading raises, ConfigError with the step."""
    techniques = tuple(_settings(number, step) for number, step in enumerate(recipe.steps, 1))
    profile = loader.load(recipe.target) if recipe.target else None
    model = load_model(recipe.model, calibration=recipe.calibration, evaluate=recipe.evaluate)
    if not isinstance(model.module, nn.Module):
        fix = "give the nn.Module itself: compression changes its layers"
        raise ModelError(f"{recipe.model} is an exported program", fix=fix)
    if recipe.max_drop is not None and model.evaluate is None:
        raise UsageError("max_drop has nothing to judge", why="the model has no evaluate", fix='add evaluate = "file.py:name"')
    functions = {name: _function(name, getattr(recipe.training, name)) for name in ("fit", "train_step", "batches", "held_out")}
    if any(step.epochs for step in recipe.steps) and not (functions["fit"] or functions["train_step"]):
        fix = 'add [training] with fit = "file.py:fit", or train_step and batches'
        raise ConfigError("a step has epochs, but the recipe has no training", fix=fix)
    for number, (step, made) in enumerate(zip(recipe.steps, techniques, strict=True), 1):
        _check_latency(number, step, made, profile)
    return Workload(
        recipe=recipe, model=replace(model), module=model.module, techniques=techniques, profile=profile,
        fit=functions["fit"], train_step=functions["train_step"], train_batches=functions["batches"],
        held_out=functions["held_out"],
    )  # fmt: skip


def owns(technique: Technique | type[Technique], setting: str) -> bool:
    """Whether the technique itself has a setting that steps have as well: then it is the technique's."""
    return setting in getattr(technique, "__dataclass_fields__", {})


def digest(module: nn.Module) -> str:
    """Of all weights and buffers, with their names and shapes."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(f"{name}{list(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _settings(number: int, step: Step) -> Technique:
    kind = technique_of(step.technique)
    shared = {name: getattr(step, name) for name in ("epochs", "learning_rate") if owns(kind, name) and getattr(step, name)}
    known = list(getattr(kind, "__dataclass_fields__", {}))
    for key in step.settings:
        if key not in known:
            fix = did_you_mean(key, known) or f"it has: {', '.join(known)}"
            raise ConfigError(f"step {number}: {step.technique} has no setting {key!r}", fix=fix)
    try:
        return from_data(kind, step.settings | shared)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        why = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"step {number}: {step.technique} does not fit", why=why, fix="correct it") from error


def _check_latency(number: int, step: Step, technique: Technique, profile: TargetProfile | None) -> None:
    """Raises ConfigError for a latency goal that cannot be gone for."""
    if step.latency is None:
        return
    if profile is None:
        fix = 'add target = "arm-xnnpack", for example'
        raise ConfigError(f"step {number}: latency needs a target to measure", fix=fix)
    if not has_amount(technique):
        able = ", ".join(name for name in TECHNIQUES if owns(technique_of(name), "amount"))
        why, fix = "its technique has no amount to vary", f"these have: {able}"
        raise ConfigError(f"step {number}: {step.technique} cannot go for a latency", why=why, fix=fix)
    if "amount" in step.settings:
        why = "latency asks for as much as it takes"
        raise ConfigError(f"step {number} has an amount and a latency", why=why, fix="give one of them")


def _function(name: str, reference: str | None) -> Callable[..., Any] | None:
    if reference is None:
        return None
    found = resolve(reference)
    if not callable(found):
        raise ConfigError(f"training.{name}: {reference} is a {type(found).__name__}, not a function", fix="name a function")
    return found
