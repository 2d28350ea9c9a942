"""``recipe.toml``: what to compress, how, and what it may cost. Paths in it are relative to its folder."""

from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, StrictStr, ValidationError

from edgeopt.core import data_class, from_data
from edgeopt.errors import ConfigError, did_you_mean
from edgeopt.support.untrusted import read_text, shown, toml

_Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Epochs = Annotated[int, Strict(), Field(ge=0, le=1_000_000)]
_Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
MOST_STEPS = 100


@data_class
class Training:
    """The user's training code: ``fit(model, epochs)``, or ``train_step(model, batch) -> loss`` with ``batches``.

    ``held_out``: batches like these that nothing was trained on, for what is calibrated after training.
    """

    fit: StrictStr | None = None
    train_step: StrictStr | None = None
    batches: StrictStr | None = None
    held_out: StrictStr | None = None
    learning_rate: _Rate = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.fit and self.train_step:
            raise ValueError("fit and train_step are two ways to say the same: give one")
        if self.train_step and not self.batches:
            raise ValueError("train_step needs batches, a function that yields one epoch")


@data_class
class Step:
    """One technique. ``settings`` are its own keys; ``epochs`` of fine-tuning follow it.

    ``latency``: instead of an amount, the share of the original's latency to reach on ``device`` with the recipe's target.
    """

    technique: StrictStr
    epochs: _Epochs = 0
    learning_rate: _Rate | None = None
    latency: _Share | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@data_class
class Export:
    """The bundle at the end; no targets are all targets."""

    targets: tuple[StrictStr, ...] = ()


@data_class
class Recipe:
    """``model``, ``evaluate`` and ``calibration``: references as ``edgeopt export`` takes them.

    ``target``: the one that has to gain: its profile guides the techniques, and its artifact is made and timed after each step.
    ``max_drop``: the most that the first number of ``evaluate`` may lose in all. ``max_bytes`` and ``max_latency_ms``: what the
    target's artifact of the result may take; a result beyond them is told, and the run ends as failed. ``seed``: of every step.
    """

    model: StrictStr
    evaluate: StrictStr | None = None
    calibration: StrictStr | None = None
    target: StrictStr | None = None
    device: StrictStr = "local"
    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_bytes: Annotated[int, Strict(), Field(ge=1)] | None = None
    max_latency_ms: _Rate | None = None
    out: StrictStr | None = None
    seed: _Seed = 0
    training: Training = field(default_factory=Training)
    steps: tuple[Step, ...] = ()
    export: Export | None = None
    folder: Path = Path()
    """Where the file lies."""


def read(path: Path) -> Recipe:
    """The recipe in ``path``. Raises ConfigError that names the file, the step and the key."""
    try:
        data = toml(read_text(path), str(path))
    except FileNotFoundError as error:
        fix = "check the path after --recipe, or let `edgeopt advise MODEL --target T --write recipe.toml` make one"
        raise ConfigError(f"there is no recipe {path}", fix=fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), fix="give a readable UTF-8 file") from error
    return _recipe(path, data)


def _recipe(path: Path, data: dict[str, Any]) -> Recipe:
    steps = data.pop("step", [])
    known = [name.name for name in fields(Recipe) if name.name not in ("steps", "folder")] + ["step"]
    for key in data:
        if key not in known:
            fix = did_you_mean(key, known) or f"the keys are {', '.join(known)}"
            raise ConfigError(f"{path} has an unknown key {shown(key)}", fix=fix)
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{path} has no steps", fix='add [[step]] with technique = "channels", for example')
    if len(steps) > MOST_STEPS:
        why = "each is trained, measured and kept in a folder of its own"
        raise ConfigError(f"{path} has {len(steps)} steps", why=why, fix=f"write {MOST_STEPS} at most")
    try:
        recipe = from_data(Recipe, data | {"steps": [_split(step) for step in steps]})
    except ValidationError as error:
        raise _misfit(path, error) from error
    return _relative_to(path.parent, recipe)


def _split(step: dict[str, Any]) -> dict[str, Any]:
    """A step's own keys, and everything else as its technique's settings."""
    own = {one.name for one in fields(Step)} - {"settings"}
    return {key: value for key, value in step.items() if key in own} | {
        "settings": {key: value for key, value in step.items() if key not in own}
    }


def _misfit(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place and place[0] == "steps":
        place = [f"step {int(place[1]) + 1}", *place[2:]] if len(place) > 1 else ["step"]
    said = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{path}: {' '.join(place)} does not fit", why=said, fix="correct it")


def _relative_to(folder: Path, recipe: Recipe) -> Recipe:
    def reference(text: Any) -> Any:
        is_file = isinstance(text, str) and (text.endswith(".pt2") or text.rpartition(":")[0].endswith(".py"))
        return str(folder / text) if is_file else text

    training = recipe.training
    moved = {name: reference(getattr(training, name)) for name in ("fit", "train_step", "batches", "held_out")}
    steps = (replace(step, settings={key: reference(value) for key, value in step.settings.items()}) for step in recipe.steps)
    target = recipe.target
    return replace(
        recipe,
        model=reference(recipe.model),
        evaluate=reference(recipe.evaluate),
        calibration=reference(recipe.calibration),
        target=str(folder / target) if target and target.endswith(".toml") else target,
        out=str(folder / recipe.out) if recipe.out else None,
        training=replace(training, **moved),
        steps=tuple(steps),
        folder=folder,
    )
