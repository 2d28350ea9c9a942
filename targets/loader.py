"""Finds and reads target profiles: built in, given by a path that ends in .toml, or offered by another package.

Another package adds targets through the entry points ``edgeopt.targets``: the entry point's name is the target's, and its
value is a module whose folder holds ``NAME.toml`` (``my-target = "my_package.targets"``).
"""

from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgeopt.core import LOG_FOLDER, MANIFEST_NAME, SUMS_NAME, TWIN, from_data
from edgeopt.errors import ConfigError, UnknownName, did_you_mean
from edgeopt.support.untrusted import read_text, shown, toml
from edgeopt.targets.names import ENTRY_POINTS, PACKAGE, SUFFIX, built_in, name_of, names
from edgeopt.targets.schema import TargetProfile

__all__ = ["ENTRY_POINTS", "load", "name_of", "names"]
_LONGEST_KEY, _MOST_PROBLEMS = 60, 10


def load(name_or_path: str) -> TargetProfile:
    """The profile called ``name_or_path``, or the one in the file it names where it ends in ``.toml``.

    Raises UnknownName for a name nobody offers, ConfigError for a file that cannot be read or does not fit the schema.
    """
    if name_or_path.endswith(SUFFIX):
        path = Path(name_or_path)
        return _new(_parse(_read(path, str(path)), path.stem, str(path)), str(path))
    if name_or_path in built_in():
        resource = files(PACKAGE).joinpath(name_or_path + SUFFIX)
        return _parse(_read(resource, resource.name), name_or_path, resource.name)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name_or_path:
            return _load_entry(entry)
    raise _unknown(name_or_path)


def _load_entry(entry: EntryPoint) -> TargetProfile:
    try:
        resource = files(entry.value).joinpath(entry.name + SUFFIX)
    except (ImportError, TypeError) as error:
        raise ConfigError(
            f"target {entry.name!r} cannot be loaded from the package that offers it",
            why=f"{entry.value!r}: {error}",
            fix="reinstall that package, or report this to its authors",
        ) from error
    label = f"{entry.value}/{entry.name}{SUFFIX}"
    return _new(_parse(_read(resource, label), entry.name, label), label)


def _new(profile: TargetProfile, label: str) -> TargetProfile:
    """``profile``, which is not one of edgeopt's own. Raises ConfigError where its name has a meaning already."""
    name = profile.name.casefold()  # disks of macOS and Windows take large and small letters for the same
    if name == TWIN:
        why = "everything is compared with the target of that name, which is always made"
    elif name in (own.casefold() for own in (LOG_FOLDER, MANIFEST_NAME, SUMS_NAME)):
        why = "a bundle has a file or folder of its own of that name"
    else:
        return profile
    raise ConfigError(f"{label} cannot be called {profile.name!r}", why=why, fix="give it another name, and its file too")


def _read(source: Traversable, label: str) -> str:
    try:
        return read_text(source) if isinstance(source, Path) else source.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no target file {label!r}", fix="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a readable UTF-8 file"
        raise ConfigError(f"the target file {label!r} cannot be read", why=str(error), fix=fix) from error


def _parse(text: str, stem: str, label: str) -> TargetProfile:
    try:
        profile = from_data(TargetProfile, toml(text, label))
    except ValidationError as error:
        why, fix = _explain(error)
        raise ConfigError(f"{label} does not fit the schema of a target", why=why, fix=fix) from error
    if profile.name != stem:
        raise ConfigError(
            f"{label} has the name {profile.name!r}",
            why="a target is found by its file's name, so both must agree",
            fix=f'write name = "{stem}", or rename the file',
        )
    if not profile.schemes or not profile.formats:
        raise ConfigError(f"{label} has no {'formats' if not profile.formats else 'schemes'}", fix="give at least one")
    return profile


def _explain(error: ValidationError) -> tuple[str, str]:
    """The problems that pydantic found, in the words of the file; the fix for the first one."""
    whys, fixes = [], []
    # A misspelt key is reported as missing too: the unknown key comes first, its fix mends both.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] == "missing")
    for problem in problems[:_MOST_PROBLEMS]:
        key = ".".join(str(part)[:_LONGEST_KEY] for part in problem["loc"])
        if problem["type"] == "unexpected_keyword_argument":
            whys.append(f"unknown key {shown(key)}")
            fixes.append(_nearest_key(problem["loc"]))
        elif problem["type"] == "missing":
            whys.append(f"the key {key!r} is missing")
            fixes.append(f"add {key}")
        elif problem["type"] == "literal_error":
            expected = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            whys.append(f"{key}: {shown(problem['input'])} is not one of {', '.join(expected)}")
            fixes.append(did_you_mean(str(problem["input"]), expected) or f"correct {key}")
        elif not key:  # of the whole, such as two keys that do not go together
            whys.append(problem["msg"].removeprefix("Value error, "))
            fixes.append("correct it")
        else:
            found = "" if isinstance(problem["input"], dict) else f", found {shown(problem['input'])}"
            whys.append(f"{key}: {problem['msg']}{found}")
            fixes.append(f"correct {key}")
    more = f"; and {len(problems) - len(whys)} more" if len(problems) > len(whys) else ""
    return "; ".join(whys) + more, fixes[0]


def _nearest_key(location: tuple[int | str, ...]) -> str:
    known = _known_keys(tuple(part for part in location[:-1] if isinstance(part, str)))
    return did_you_mean(str(location[-1]), known) or "known keys here: " + ", ".join(sorted(known))


def _known_keys(sections: tuple[str, ...]) -> list[str]:
    """Keys that the schema knows below ``sections``, read from the schema itself."""
    schema = TypeAdapter(TargetProfile).json_schema()
    node = schema
    for section in sections:
        node = _resolve(node.get("properties", {}).get(section, {}), schema)
    return list(node.get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The object that ``node`` stands for: through references, optionals and lists of objects."""
    options = [node, *node.get("anyOf", []), node.get("items", {})]
    reference = next((option["$ref"] for option in options if "$ref" in option), None)
    found: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else node
    return found


def _unknown(name: str) -> UnknownName:
    known = names()
    why = f"known targets: {', '.join(known)}"
    return UnknownName(f"there is no target {name!r}", why=why, fix=did_you_mean(name, known) or "run: edgeopt targets")
