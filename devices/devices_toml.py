"""``devices.toml``: the devices that have a name. The project's own file (the current folder's) goes before the user's.

[pi5]
url = "ssh://pi@192.168.1.20"
targets = ["arm-xnnpack", "arm-ort"]
"""

import re
from collections.abc import Iterable
from dataclasses import field, fields, replace
from itertools import chain, count
from os.path import expanduser
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import tomlkit
from pydantic import Field, StrictStr, ValidationError
from tomlkit.exceptions import TOMLKitError

from edgeopt.core import data_class, from_data
from edgeopt.devices.native.job import TOOLS
from edgeopt.errors import ConfigError, UnknownName, UsageError, did_you_mean, redacted
from edgeopt.support.files import config_folder, make_folder, write_atomic
from edgeopt.support.untrusted import read_text, shown, toml
from edgeopt.support.urls import refuse_password

FILE_NAME = "devices.toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOCAL = "local"

_TOML = ".toml"
_TARGET = r"^([A-Za-z0-9][A-Za-z0-9._-]*|[^\x00-\x1f\x7f]+\.toml)$"

Target = Annotated[StrictStr, Field(pattern=_TARGET)]


@data_class
class DeviceSpec:
    """One device: what exists and how to reach it. Behaviour is the transport's.

    ``targets``: what it is there for, by name or, ending in ``.toml``, by file; empty means everything it can run. ``python``:
    the Python there that has the runtimes; an empty text: none, so that native tools measure. ``root``: the folder there for
    its private one; relative to the home folder there, as is ``~/``. ``delegate``: the library of a LiteRT delegate there, for
    ``--accelerator delegate``: its path, or a name that the loader there finds; ``delegate_options``: what it is told.
    ``tools``: native benchmark tools on this computer by name, pushed when needed. ``changed``: what a file says of ``local``,
    which is measured where no device is named. In the file, paths on this computer are relative to its folder.
    """

    name: str
    url: StrictStr
    targets: tuple[Target, ...] = ()
    python: StrictStr | None = None
    root: StrictStr | None = None
    delegate: StrictStr | None = None
    delegate_options: dict[str, StrictStr] = field(default_factory=dict)
    tools: dict[str, StrictStr] = field(default_factory=dict)
    changed: str = field(default="", compare=False)


def user_file() -> Path:
    """The user's own file: ``devices.toml`` in :func:`edgeopt.support.files.config_folder`."""
    return config_folder() / FILE_NAME


def known() -> dict[str, DeviceSpec]:
    """Every device with a name, and ``local``. Raises ConfigError that names the file, the device and the key."""
    found = {LOCAL: DeviceSpec(name=LOCAL, url=LOCAL)}
    for path in (user_file(), Path(FILE_NAME)):
        if path.is_file():
            found |= _read(path)
    return found


def resolve(text: str) -> DeviceSpec:
    """The device of that name, or the unnamed one of a URL such as ``ssh://pi@192.168.1.20``."""
    if "://" in text:
        refuse_password(text)
        return DeviceSpec(name=_name_for(text), url=text)
    devices = known()
    if text not in devices:
        fix = did_you_mean(text, devices) or "edgeopt devices add NAME ssh://USER@HOST, or give a URL"
        raise UnknownName(f"there is no device {redacted(text)!r}", why=f"known devices: {', '.join(sorted(devices))}", fix=fix)
    return devices[text]


def resolve_all(texts: Iterable[str]) -> list[DeviceSpec]:
    """As :func:`resolve` each, in their order and once. Two URLs of one host have two names: with the user, or a number."""
    found: dict[str, DeviceSpec] = {}
    for text in dict.fromkeys(texts):
        spec = resolve(text)
        if spec.name in found:
            user = _name_for(f"://{text.partition('://')[2].rpartition('@')[0]}-{spec.name}")
            names = chain((user,), (f"{user}-{number}" for number in count(2)))
            spec = replace(spec, name=next(name for name in names if name not in found))
        found[spec.name] = spec
    return list(found.values())


def add(spec: DeviceSpec, path: Path | None = None) -> Path:
    """Writes ``spec`` into ``path`` (the project's file where there is one, else the user's) and returns it.

    The rest of the file stays as it is, comments included. A target's file is found from there again: by its path below that
    folder, or else by its whole path. Raises UsageError where the name is taken.
    """
    if not _NAME.fullmatch(spec.name) or spec.name == LOCAL:
        raise UsageError(
            f"{redacted(spec.name)!r} cannot be a device's name",
            fix="use letters, digits, '.', '_' and '-'; local is this computer",
        )
    refuse_password(spec.url)
    path = path or (Path(FILE_NAME) if Path(FILE_NAME).is_file() else user_file())
    document = _document(path) if path.is_file() else tomlkit.document()
    if spec.name in document:
        raise UsageError(f"{path} already has a device {spec.name}", fix=f"choose another name, or edit {path}")
    table = tomlkit.table()
    table["url"] = spec.url
    if spec.targets:
        table["targets"] = [_kept(target, path.parent) for target in spec.targets]
    if spec.delegate:
        table["delegate"] = spec.delegate
    document[spec.name] = table
    make_folder(path.parent)
    write_atomic(path, tomlkit.dumps(document))
    return path


def _name_for(url: str) -> str:
    """A short name for a URL, good for a folder: its host, and the port where one is given."""
    place = unquote(url.partition("://")[2].rpartition("@")[2])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", place).strip("-.") or "device"


def _document(path: Path) -> tomlkit.TOMLDocument:
    """The file with its comments, to be added to."""
    text = _text(path)
    toml(text, str(path))  # tomlkit is a reader of files of one's own: it raises anything for others
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, ValueError) as error:
        raise ConfigError(f"{path} is not TOML", why=str(error), fix="correct that line") from error


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), fix="give a readable UTF-8 file") from error


def _read(path: Path) -> dict[str, DeviceSpec]:
    keys = [one.name for one in fields(DeviceSpec) if one.name not in ("name", "changed")]
    found = {}
    for name, table in toml(_text(path), str(path)).items():
        if isinstance(table, dict) and not _NAME.fullmatch(name):
            what = f"{path}: {shown(redacted(name))} is no device's name"
            raise ConfigError(what, fix=f"use letters, digits, '.', '_' and '-', as in [{_name_for(f'://{name}')[:64]}]")
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: {shown(redacted(name))} is no device",
                fix=f'write [{_name_for(name)[:64]}] and below it url = "ssh://..."',
            )
        if unknown := [key for key in table if key not in keys]:
            fix = did_you_mean(unknown[0], keys) or f"the keys are {', '.join(keys)}"
            raise ConfigError(f"{path}: device {name} has an unknown key {shown(unknown[0])}", fix=fix)
        try:
            spec = from_data(DeviceSpec, table | {"name": name})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part)[:64] for part in first["loc"])
            raise ConfigError(f"{path}: device {name}: {key} does not fit", why=first["msg"], fix=f"correct {key}") from error
        if unknown := [tool for tool in spec.tools if tool not in TOOLS.values()]:
            fix = did_you_mean(unknown[0], TOOLS.values()) or f"the tools are {' and '.join(TOOLS.values())}"
            raise ConfigError(f"{path}: device {name} has an unknown tool {shown(unknown[0])}", fix=fix)
        _check_root(spec.root or "", f"{path}: device {name}")
        refuse_password(spec.url, f"{path}: the URL of device {name}")
        found[name] = replace(
            spec,
            targets=tuple(_below(path.parent, one) if one.endswith(_TOML) else one for one in spec.targets),
            tools={tool: _below(path.parent, file) for tool, file in spec.tools.items()},
            changed=_changed(spec, path) if name == LOCAL else "",
        )
    return found


def _check_root(root: str, where: str) -> None:
    """Raises ConfigError for what would become a folder of a name that nobody means. The home folder is the device's own."""
    if not root.isprintable():
        why, fix = "it has control characters", "name a folder without them"
    elif root.startswith("$"):
        why, fix = "variables are not replaced in it", "write the whole path, or ~/FOLDER for one below the home folder there"
    elif root.startswith("~") and root != "~" and not root.startswith("~/"):
        why = "somebody else's home folder is not looked up there"
        fix = "write the whole path, ~/FOLDER for one below the home folder there, or ./~FOLDER for a folder of that name"
    else:
        return
    raise ConfigError(f"{where}: root = {shown(root)} does not fit", why=why, fix=fix)


def _changed(spec: DeviceSpec, path: Path) -> str:
    """What ``path`` says of this computer. Raises ConfigError where it would be another one, which nobody expects."""
    if spec.url.partition("://")[0] != LOCAL:
        why = f"local is this computer, which is measured where no device is named, and its url there is {redacted(spec.url)}"
        raise ConfigError(f"{path}: [local] is another device", why=why, fix="give that device another name, such as [board]")
    usual = DeviceSpec(name=LOCAL, url=LOCAL)
    said = [one.name for one in fields(spec) if getattr(spec, one.name) != getattr(usual, one.name)]
    return f"{path.absolute()} sets {', '.join(said)} of {LOCAL}" if said else ""


def _kept(target: str, folder: Path) -> str:
    """``target`` as a file in ``folder`` names it. Raises UsageError for a path that no such file can hold."""
    if not target.endswith(_TOML):
        return target
    if not re.fullmatch(_TARGET, target):
        raise UsageError(f"{target!r} cannot be named in {FILE_NAME}", why="it has control characters", fix="rename that file")
    path, folder = Path(target).absolute(), folder.absolute()
    if not path.is_relative_to(folder):
        return str(path)
    below = path.relative_to(folder).as_posix()
    return f"./{below}" if below.startswith("~") else below  # else it would be somebody's home


def _below(folder: Path, file: str) -> str:
    """``file``, where it is relative, as seen from ``folder``."""
    # pathlib's own takes ./~x for a home, and fails for one that nobody has.
    return str(folder.absolute() / expanduser(file))  # noqa: PTH111
