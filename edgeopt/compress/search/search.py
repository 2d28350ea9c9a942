"""Architecture search: which widths, depths and resolutions of a family give the most accuracy for the least time.

    def build(width: float, depth: int) -> nn.Module: ...

    found = search(build, {"width": (0.25, 0.5, 1.0), "depth": (1, 2)}, context, epochs=5, folder=Path("search"))
    for trial in found.front: ...                       # from cheap to dear
    module = load(build, found.best(max_cost=2e6), Path("search"))

Optuna searches: every architecture where the budget allows it, else NSGA-II (Deb et al., 2002) over accuracy and cost. With a
folder, an interrupted search goes on where it stopped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import optuna
import torch
from optuna.trial import TrialState
from torch import nn

from edgeopt.compress.common import measures
from edgeopt.compress.common.scoring import score
from edgeopt.compress.common.training import fine_tune, write_state
from edgeopt.compress.search.family import Architecture, Build, Family, Space, example_of, fed, key
from edgeopt.compress.search.found import Cost, Found, Trial
from edgeopt.compress.search.supernet import Imitation, Supernet
from edgeopt.compress.technique import Context
from edgeopt.core import data_class, from_json, to_json
from edgeopt.errors import CompressionError, ModelError
from edgeopt.model.model import Batch
from edgeopt.support.files import make_folder

Measure = Callable[[nn.Module, Batch], float]
"""Milliseconds of one call of a module, in eval mode, on an example: on a device, or here."""
STUDY, RECORD, SETTINGS = "architectures", "trial", "settings"
DATABASE, SHARED = "search.db", "shared.pt"
MIN_POPULATION, MAX_POPULATION, GENERATIONS = 8, 50, 5
ASKS_PER_TRIAL = 20
"""NSGA-II often proposes again what it knows: so often at most per new architecture."""


@runtime_checkable
class Predicts(Protocol):
    """A latency table that is asked instead of a device."""

    def predict(self, module: nn.Module, example_inputs: Batch) -> Any:
        """Something with ``ms`` and ``source``."""


@data_class
class Sharing:
    """One training for all (:mod:`edgeopt.compress.search.supernet`). ``sampled``: random networks per step, besides two."""

    sampled: int = 2
    imitation: Imitation = "kl"

    def __post_init__(self) -> None:
        if self.sampled < 0:
            raise ValueError("sampled is 0 or more")


@data_class
class _Settings:
    """What must be the same for a search to be gone on with."""

    choices: dict[str, tuple[bool | int | float | str, ...]]
    epochs: int
    seed: int
    sharing: Sharing | None
    cost: Cost


def search(
    build: Build,
    space: Space,
    context: Context,
    *,
    trials: int = 40,
    epochs: int = 0,
    latency: Measure | Predicts | None = None,
    sharing: Sharing | None = None,
    folder: Path | None = None,
    seed: int = 0,
) -> Found:
    """Trains and scores up to ``trials`` architectures of ``space``; MACs are weighed against accuracy where no ``latency`` is.

    Each is made by ``build(**architecture)``, trained by the context's ``fit`` for ``epochs`` (with ``sharing``: all of them
    at once, in one training) and scored by its ``evaluate``. What fails is a trial with its reason. With ``folder``, trials
    and weights are kept there, and the same call again goes on (and tries what failed again). Raises CompressionError where
    nothing can be searched, the folder holds another search, or every architecture failed.
    """
    family = Family.of(build, space)
    if trials < 1 or epochs < 0:
        raise CompressionError(f"{trials} trials of {epochs} epochs are no search", fix="give at least one trial")
    if context.evaluate is None:
        raise CompressionError("there is no evaluate", why="candidates are scored by it", fix="give evaluate in the context")
    if epochs and context.fit is None:
        raise CompressionError("there is nothing to train with", why=f"epochs is {epochs}", fix="give fit in the context")
    cost: Cost = "macs" if latency is None else "latency_ms"
    settings = _Settings(choices=family.choices, epochs=epochs, seed=seed, sharing=sharing, cost=cost)
    with _quiet():
        return _Search(family, context, settings, latency, trials, folder).run()


def load(build: Build, trial: Trial, folder: Path) -> nn.Module:
    """The trained network of ``trial``, in eval mode, from the folder of its search."""
    module = Family.of(build, {name: (value,) for name, value in trial.architecture.items()}).make(trial.architecture)
    path = _weights(folder, trial.number)
    if not path.is_file():
        raise CompressionError(f"there are no weights of {trial.name}", why=f"{path} is missing", fix="search again")
    module.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()


class _Search:
    def __init__(
        self, family: Family, context: Context, settings: _Settings, latency: Measure | Predicts | None, trials: int,
        folder: Path | None,
    ) -> None:  # fmt: skip
        self._family, self._context, self._settings = family, context, settings
        self._latency, self._wanted, self._folder = latency, min(trials, len(family)), folder
        self._known: dict[Any, Trial] = {}
        self._supernet: Supernet | None = None

    def run(self) -> Found:
        study = self._study()
        if self._settings.sharing is not None:
            with _seeded(self._settings.seed):
                self._supernet = self._shared(self._settings.sharing)
        for architecture in self._first():
            if len(self._known) < self._wanted and key(architecture) not in self._known:
                study.enqueue_trial(architecture)
                self._ask(study)
        for _ in range(ASKS_PER_TRIAL * self._wanted):
            if len(self._known) >= self._wanted:
                break
            self._ask(study)
        return self._found(study)

    def _first(self) -> Iterator[Architecture]:
        """All of them where they fit; else the two ends, between which NSGA-II then searches."""
        if self._wanted == len(self._family):
            yield from self._family.all()
        else:
            yield from (self._family.largest, self._family.smallest)

    def _study(self) -> optuna.Study:
        storage = None
        if self._folder is not None:
            storage = _storage(make_folder(self._folder) / DATABASE)
        population = min(max(self._wanted // GENERATIONS, MIN_POPULATION), MAX_POPULATION)
        study = optuna.create_study(storage=storage, study_name=STUDY, directions=["maximize", "minimize"], load_if_exists=True)
        # Another seed after an interruption: the same one would propose again what is known.
        seed = self._settings.seed + len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        self._resume(study)
        return study

    def _resume(self, study: optuna.Study) -> None:
        settings = to_json(self._settings)
        if study.user_attrs.setdefault(SETTINGS, settings) != settings:
            fix = "give another folder, or the settings that it was begun with"
            raise CompressionError(f"{self._folder} holds a search with other settings", fix=fix)
        study.set_user_attr(SETTINGS, settings)
        for one in study.get_trials():
            if one.state == TrialState.RUNNING:  # the process was killed in the middle of it
                study.tell(one.number, state=TrialState.FAIL)
            elif one.state == TrialState.COMPLETE:  # what failed is tried again: its cause may be gone
                trial = from_json(Trial, one.user_attrs[RECORD])
                self._known.setdefault(key(trial.architecture), trial)

    def _ask(self, study: optuna.Study) -> None:
        asked = study.ask()
        choices = self._family.choices
        for name in choices:
            asked.suggest_categorical(name, choices[name])
        architecture: Architecture = {name: asked.params[name] for name in choices}
        known = self._known.get(key(architecture))
        trial = known or self._tried(asked.number, architecture)
        self._known[key(architecture)] = trial
        asked.set_user_attr(RECORD, to_json(trial))
        if trial.error:
            study.tell(asked, state=TrialState.FAIL)
        else:
            study.tell(asked, [trial.score, trial.cost(self._settings.cost)])

    def _tried(self, number: int, architecture: Architecture) -> Trial:
        trial = Trial(number=number, architecture=architecture, scores={}, macs=0, parameters=0)
        context = self._context
        try:
            example = example_of(context.example_inputs, architecture)
            module = self._trained(architecture)
            trial = replace(trial, macs=measures.macs(module, example), parameters=measures.parameters(module))
            if self._latency is not None:
                trial = self._timed(trial, module, example)
            trial = replace(trial, scores=score(fed(module, architecture), context.evaluate, context.example_inputs))
        except (CompressionError, ModelError) as error:
            context.tell(f"{trial.name}: failed: {error.what}")
            return replace(trial, reason=error.message(), error=type(error).__name__)
        if self._folder is not None:
            write_state(_weights(self._folder, number), module)
        cost = f"{trial.macs:,} MACs" if trial.latency_ms is None else f"{trial.latency_ms:.4g} ms"
        context.tell(f"{trial.name}: {next(iter(trial.scores))} {trial.score:.4f}, {cost}")
        return trial

    def _trained(self, architecture: Architecture) -> nn.Module:
        settings, fit = self._settings, self._context.fit
        with _seeded(settings.seed):
            if self._supernet is not None:
                return self._supernet.take(architecture, self._context)
            module = self._family.make(architecture)
            if settings.epochs and fit is not None:
                fine_tune(fit, fed(module, architecture), settings.epochs)
            return module.eval()

    def _shared(self, sharing: Sharing) -> Supernet:
        """The trained supernet, from the folder where it is there already."""
        settings, fit = self._settings, self._context.fit
        made = Supernet(self._family, sampled=sharing.sampled, imitation=sharing.imitation, seed=settings.seed)
        path = None if self._folder is None else self._folder / SHARED
        if path is not None and path.is_file():
            made.load_state_dict(torch.load(path, weights_only=True))
        elif settings.epochs and fit is not None:
            self._context.tell(f"training one network for all {len(self._family)} architectures")
            fine_tune(fit, made, settings.epochs)
            if path is not None:
                write_state(path, made)
        return made

    def _timed(self, trial: Trial, module: nn.Module, example: Batch) -> Trial:
        if isinstance(self._latency, Predicts):
            predicted = self._latency.predict(module, example)
            return replace(trial, latency_ms=float(predicted.ms), latency_source=str(predicted.source))
        assert self._latency is not None
        return replace(trial, latency_ms=float(self._latency(module, example)), latency_source="measured")

    def _found(self, study: optuna.Study) -> Found:
        trials = tuple(sorted(self._known.values(), key=lambda one: one.number))
        good = [one for one in trials if not one.error]
        if not good:
            first = trials[0]
            raise CompressionError("every architecture failed", why=f"{first.name}: {first.reason}", fix="correct build or fit")
        front = {key(from_json(Trial, one.user_attrs[RECORD]).architecture) for one in study.best_trials}
        cost = self._settings.cost
        notes = []
        if len(trials) < self._wanted:
            notes.append(f"NSGA-II proposed only {len(trials)} different architectures of {self._wanted}")
        return Found(
            metric=next(iter(good[0].scores)), cost=cost, trials=trials, notes=tuple(notes),
            front=tuple(sorted((self._known[one] for one in front), key=lambda one: one.cost(cost))),
        )  # fmt: skip


def _storage(path: Path) -> optuna.storages.RDBStorage:
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(path.absolute()))  # a path may hold what means something in a URL
    return optuna.storages.RDBStorage(url.render_as_string(hide_password=False))


def _weights(folder: Path, number: int) -> Path:
    return folder / f"trial-{number}.pt"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Every network starts from the same seed, and the caller's random numbers go on as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells about each study on stderr; here ``context.tell`` does."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
