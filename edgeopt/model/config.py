"""``edgeopt.toml``: everything the command line can say, kept in a file. What the command line says goes before it."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, StrictBool, StrictStr, ValidationError

from edgeopt.core import Quality, data_class, from_data
from edgeopt.errors import ConfigError, UsageError, did_you_mean
from edgeopt.model.model import DEFAULT_NAME
from edgeopt.model.options import Options
from edgeopt.support.quantities import bytes_of
from edgeopt.support.untrusted import read_text, shown, toml

_Text = Annotated[StrictStr, Field(min_length=1)]
_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]


@data_class
class Settings:
    """What one export was asked for, before anything is loaded; None and () are "not said".

    ``model``, ``calibration`` and ``evaluate`` are references, ``inputs`` as ``--input`` has them, ``timeout`` in seconds.
    """

    model: _Text | None = None
    inputs: tuple[_Text, ...] = ()
    targets: tuple[_Text, ...] = ()
    calibration: _Text | None = None
    evaluate: _Text | None = None
    max_drop: Annotated[_Number, Field(ge=0)] | None = None
    max_slice_drop: Annotated[_Number, Field(ge=0)] | None = None
    min_sqnr: Annotated[_Number, Field(gt=0)] | None = None
    min_agreement: Annotated[_Number, Field(gt=0, le=1)] | None = None
    max_size: _Text | None = None
    out: _Text | None = None
    timeout: Annotated[_Number, Field(gt=0)] | None = None
    jobs: Annotated[int, Strict(), Field(ge=1)] | None = None
    cache: StrictBool | None = None
    io_float: StrictBool | None = None
    strict_scheme: StrictBool | None = None
    never_slower: StrictBool | None = None
    quality: Quality | None = None
    latency_table: _Text | None = None

    def over(self, other: "Settings") -> "Settings":
        """These settings, and ``other``'s where these say nothing."""
        said = {key: value for key, value in _items(self) if value not in (None, ())}
        return replace(other, **said)

    def options(self, name: str) -> Options:
        """As the pipeline takes them; ``build/NAME`` is the output folder where none is said."""
        given = {"max_drop": self.max_drop, "max_slice_drop": self.max_slice_drop, "timeout_s": self.timeout, "jobs": self.jobs}
        given |= {"min_sqnr": self.min_sqnr, "min_agreement": self.min_agreement}
        given |= {"max_size": None if self.max_size is None else bytes_of(self.max_size)}
        given |= {"use_cache": self.cache, "io_float": self.io_float, "strict_scheme": self.strict_scheme}
        given |= {"never_slower": self.never_slower}
        texts = {"quality": self.quality, "latency_table": self.latency_table}
        said = {key: value for key, value in (given | texts).items() if value is not None}
        return from_data(Options, {"out": self.out or str(Path("build", _folder_name(name))), "targets": self.targets, **said})


def _folder_name(name: str) -> str:
    """``name``, which may come from anywhere, as the name of one folder."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or DEFAULT_NAME


def from_arguments(arguments: dict[str, Any]) -> Settings:
    """Settings among the command line's arguments, by field name. Raises UsageError that names the option."""
    known = {field.name for field in fields(Settings)}
    if isinstance(arguments.get("max_size"), str):
        bytes_of(arguments["max_size"])  # told before a model is loaded
    try:
        return from_data(Settings, {key: value for key, value in arguments.items() if key in known and value is not None})
    except ValidationError as error:
        key, problem = _problem(error)
        raise UsageError(f"--{key.replace('_', '-')} does not fit: {problem}", fix="see edgeopt export --help") from error


def read(path: Path) -> Settings:
    """Settings from ``path``; relative paths in it are relative to it. Raises ConfigError that names the file and the key."""
    try:
        data = toml(read_text(path), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}", fix="check the path after --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), fix="give a readable UTF-8 file") from error
    known = [field.name for field in fields(Settings)]
    for key in data:
        if key not in known:
            fix = did_you_mean(key, known) or f"the keys are {', '.join(known)}"
            raise ConfigError(f"{path} has an unknown key {shown(key)}", fix=fix)
    try:
        return _relative_to(path.parent, from_data(Settings, data))
    except ValidationError as error:
        key, problem = _problem(error)
        raise ConfigError(f"{path}: {key} does not fit", why=problem, fix=f"correct {key}") from error


def _items(settings: Settings) -> list[tuple[str, Any]]:
    return [(field.name, getattr(settings, field.name)) for field in fields(settings)]


def _problem(error: ValidationError) -> tuple[str, str]:
    """The first key that does not fit, and why, with what was found."""
    first = error.errors()[0]
    key, *inner = (str(part) for part in first["loc"])
    place = f"entry {int(inner[0]) + 1}: " if inner and inner[0].isdigit() else ""
    return key, f"{place}{first['msg']}, found {shown(first['input'])}"


def _relative_to(folder: Path, settings: Settings) -> Settings:
    """Files are looked for beside ``folder``'s file; modules and target names are left as they are."""

    def reference(text: str | None) -> str | None:
        is_file = text is not None and (text.endswith(".pt2") or text.rpartition(":")[0].endswith(".py"))
        return str(folder / text) if text is not None and is_file else text

    return replace(
        settings,
        model=reference(settings.model),
        calibration=reference(settings.calibration),
        evaluate=reference(settings.evaluate),
        targets=tuple(str(folder / target) if target.endswith(".toml") else target for target in settings.targets),
        latency_table=None if settings.latency_table is None else str(folder / settings.latency_table),
        out=None if settings.out is None else str(folder / settings.out),
    )
