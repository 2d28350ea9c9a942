"""One registry: a name maps to ``module:attribute`` and the extra that installs what it needs; imported on first use.

Other packages add formats through the entry points ``edgeopt.converters``: the entry point's name is the format's, and its
value a class without arguments that satisfies :class:`edgeopt.converters.interface.Converter`.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgeopt.errors import ConfigError, MissingExtra, UnknownName, did_you_mean

if TYPE_CHECKING:
    from edgeopt.converters.interface import Converter

ENTRY_POINTS = "edgeopt.converters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a thing is (``module:attribute``), the extra that installs it, and the modules that this extra must bring."""

    location: str
    extra: str = ""
    requires: tuple[str, ...] = ()


_CONVERTERS = {
    "onnx": Entry(
        location="edgeopt.converters.onnx:OnnxConverter",
        extra="onnx",
        requires=("torch", "torchao", "onnx", "onnxscript", "onnxruntime"),
    ),
    "tflite": Entry(
        location="edgeopt.converters.tflite:TfliteConverter",
        extra="tflite",
        requires=("torch", "torchao", "litert_torch", "ai_edge_litert"),
    ),
    "coreml": Entry(
        location="edgeopt.converters.coreml:CoremlConverter",
        extra="coreml",
        requires=("torch", "torchao", "coremltools"),
    ),
    "pt2": Entry(location="edgeopt.converters.pt2:Pt2Converter", extra="torch", requires=("torch", "torchao")),
}


def formats() -> tuple[str, ...]:
    """Every known format, sorted: the built-in ones and those of other packages."""
    return tuple(sorted(_converters()))


def converter(format_name: str) -> "Converter":
    """The converter of ``format_name``, imported now.

    Raises UnknownName with the known formats, MissingExtra with the command that installs what is missing, ConfigError where
    another package's entry point leads nowhere.
    """
    known = _converters()
    if format_name not in known:
        why = f"known formats: {', '.join(sorted(known))}"
        fix = did_you_mean(format_name, known) or "use one of these"
        raise UnknownName(f"there is no format {format_name!r}", why=why, fix=fix)
    entry = known[format_name]
    missing = [name for name in entry.requires if find_spec(name) is None]
    if missing:
        raise _missing(format_name, entry, f"not installed: {', '.join(missing)}")
    instance: Converter = _load(format_name, entry)()
    return instance


def _converters() -> dict[str, Entry]:
    """Built-in formats win over other packages' of the same name: an installed package cannot replace them unseen."""
    offered = {point.name: Entry(location=point.value) for point in entry_points(group=ENTRY_POINTS)}
    return offered | _CONVERTERS


def _load(name: str, entry: Entry) -> Any:
    module, _, attribute = entry.location.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        if entry.extra and not (error.name or "").startswith("edgeopt"):
            raise _missing(name, entry, str(error)) from error
        raise _broken(name, entry, error) from error
    except AttributeError as error:
        raise _broken(name, entry, error) from error


def _missing(name: str, entry: Entry, why: str) -> MissingExtra:
    return MissingExtra(f"the format {name!r} cannot be made here", why=why, fix=f"pip install 'edgeopt[{entry.extra}]'")


def _broken(name: str, entry: Entry, error: Exception) -> ConfigError:
    return ConfigError(
        f"the format {name!r} cannot be loaded",
        why=f"{entry.location}: {error}",
        fix="repair or uninstall the package that offers it",
    )
