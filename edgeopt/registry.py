"""One registry: a name maps to ``module:attribute`` and the extra that installs what it needs; imported on first use.

Other packages add to it through entry points: a format's name and a class without arguments that satisfies
:class:`edgeopt.converters.interface.Converter` (``edgeopt.converters``); a device URL's scheme and a function
``connect(url, ask)`` that gives an :class:`edgeopt.devices.transport.Transport` (``edgeopt.devices``).
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from edgeopt.errors import ConfigError, MissingExtra, UnknownName, did_you_mean
from edgeopt.support import extras

if TYPE_CHECKING:
    from edgeopt.converters.interface import Converter
    from edgeopt.devices.transport import Ask, Transport

ENTRY_POINTS = "edgeopt.converters"
DEVICE_ENTRY_POINTS = "edgeopt.devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a thing is (``module:attribute``), and the extra that installs what it needs."""

    location: str
    extra: str = ""
    check: str = ""
    """A device's: where the function is (``module:attribute``) that refuses a wrong URL, and needs no extra."""


_CONVERTERS = {
    "onnx": Entry(location="edgeopt.converters.onnx.converter:OnnxConverter", extra="onnx"),
    "tflite": Entry(location="edgeopt.converters.tflite.converter:TfliteConverter", extra="tflite"),
    "coreml": Entry(location="edgeopt.converters.coreml.converter:CoremlConverter", extra="coreml"),
    "pt2": Entry(location="edgeopt.converters.pt2:Pt2Converter", extra="torch"),
}

LOCAL = "local"
"""The one device URL that is its scheme alone."""
_DEVICES = {
    LOCAL: Entry(location="edgeopt.devices.local:connect"),
    "ssh": Entry(location="edgeopt.devices.ssh.transport:connect", check="edgeopt.devices.ssh.config:parse_url"),
    "adb": Entry(
        location="edgeopt.devices.adb.transport:connect", extra="devices", check="edgeopt.devices.adb.transport:parse_url"
    ),
}


def formats() -> tuple[str, ...]:
    """Every known format, sorted: the built-in ones and those of other packages."""
    return tuple(sorted(_converters()))


def converter(format_name: str) -> "Converter":
    """The converter of ``format_name``, imported now.

    Raises UnknownName with the known formats, MissingExtra with the command that installs what is missing, ConfigError where
    another package's entry point leads nowhere.
    """
    thing, entry = _format(format_name)
    _require(thing, entry)
    instance: Converter = _load(thing, entry)()
    return instance


def check_format(format_name: str) -> None:
    """Raises UnknownName and MissingExtra as :func:`converter` does, and imports nothing."""
    _require(*_format(format_name))


def _format(name: str) -> "tuple[_Thing, Entry]":
    known = _CONVERTERS if name in _CONVERTERS else _converters()  # what else is installed is not read without need
    if name not in known:
        why = f"known formats: {', '.join(sorted(known))}"
        raise UnknownName(f"there is no format {name!r}", why=why, fix=did_you_mean(name, known) or "use one of these")
    return _Thing(name, "format", "made"), known[name]


def schemes() -> tuple[str, ...]:
    """The schemes of every known kind of device, sorted: the built-in ones and those of other packages."""
    return tuple(sorted(_devices()))


def transport(url: str, ask: "Ask | None" = None) -> "Transport":
    """A connection to the device at ``url`` (``local``, ``ssh://...``, ``adb://...``); ``ask`` asks the user for a secret.

    Raises UnknownName with the known schemes, MissingExtra and ConfigError as :func:`converter` does, and what connecting does.
    """
    scheme, entry = _device_entry(url)
    thing = _Thing(scheme, "kind of device", "reached")
    _require(thing, entry)
    connected: Transport = _load(thing, entry)(url, ask)
    return connected


def check_url(url: str) -> None:
    """Refuses what :func:`transport` would, without a connection: UnknownName for the kind of device, UsageError for the rest.

    What another package's kind of device takes is known when it is reached.
    """
    scheme, entry = _device_entry(url)
    if entry.check:
        _load(_Thing(scheme, "kind of device", "reached"), Entry(location=entry.check))(url)


def _device_entry(url: str) -> tuple[str, Entry]:
    from edgeopt.errors import redacted
    from edgeopt.support.urls import refuse_password

    refuse_password(url)
    known = _devices()
    scheme = url.partition("://")[0]
    if scheme not in known:
        why = f"a device's URL is one of: {', '.join(name if name == LOCAL else f'{name}://...' for name in sorted(known))}"
        fix = did_you_mean(scheme, known) or "use one of these, or the name of a device in devices.toml"
        raise UnknownName(f"there is no kind of device {redacted(scheme)!r}", why=why, fix=fix)
    return scheme, known[scheme]


@dataclass(frozen=True, slots=True)
class _Thing:
    """How messages speak of a name: ``the format 'onnx' cannot be made here``."""

    name: str
    kind: str
    done: str

    def __str__(self) -> str:
        return f"the {self.kind} {self.name!r}"


def _converters() -> dict[str, Entry]:
    """Built-in formats win over other packages' of the same name: an installed package cannot replace them unseen."""
    return _offered(ENTRY_POINTS) | _CONVERTERS


def _devices() -> dict[str, Entry]:
    return _offered(DEVICE_ENTRY_POINTS) | _DEVICES


def _offered(group: str) -> dict[str, Entry]:
    return {point.name: Entry(location=point.value) for point in entry_points(group=group)}


def _require(thing: _Thing, entry: Entry) -> None:
    if entry.extra:
        extras.require(entry.extra, _impossible(thing))


def _impossible(thing: _Thing) -> str:
    return f"{thing} cannot be {thing.done} here"


def _load(thing: _Thing, entry: Entry) -> Any:
    module, _, attribute = entry.location.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        if entry.extra and not (error.name or "").startswith("edgeopt"):
            raise MissingExtra(_impossible(thing), why=str(error), fix=extras.command(entry.extra)) from error
        raise _broken(thing, entry, error) from error
    except AttributeError as error:
        raise _broken(thing, entry, error) from error


def _broken(thing: _Thing, entry: Entry, error: Exception) -> ConfigError:
    fix = "repair or uninstall the package that offers it"
    return ConfigError(f"{thing} cannot be loaded", why=f"{entry.location}: {error}", fix=fix)
