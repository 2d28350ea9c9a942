"""The shell scripts that make a device edgeopt's, each with what they share before it."""

from functools import cache
from importlib.resources import files


@cache
def script(name: str) -> str:
    """``device.sh`` or ``own_folder.sh``, whole."""
    return "".join((files(__package__) / part).read_text(encoding="utf-8") for part in ("shared.sh", name))
