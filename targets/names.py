"""Which targets there are, by name: listed without reading one, so that completing a name at the command line costs nothing."""

from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

ENTRY_POINTS = "edgeopt.targets"
PACKAGE = "edgeopt.targets"
SUFFIX = ".toml"


def names() -> tuple[str, ...]:
    """Every target known by name, sorted: the built-in ones and those of other packages."""
    return tuple(sorted({*built_in(), *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def built_in() -> tuple[str, ...]:
    """The names of edgeopt's own targets."""
    return tuple(item.name.removesuffix(SUFFIX) for item in files(PACKAGE).iterdir() if item.name.endswith(SUFFIX))


def name_of(name_or_path: str) -> str:
    """The name of the target that :func:`loader.load` gives: a file's is its own."""
    return Path(name_or_path).stem if name_or_path.endswith(SUFFIX) else name_or_path
