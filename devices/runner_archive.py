"""The runner as one file that a device's Python runs: ``python3 runner.zip job.json``."""

import io
import zipfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_START = """\
import sys

from edgeopt_runner.main import main

sys.exit(main(sys.argv))
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@cache
def archive() -> bytes:
    """The folder ``runner`` as a zip file, uncompressed (no zlib needed): the same sources always give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _START)
        for name, source in sorted(_sources(files("edgeopt.devices") / "runner", "edgeopt_runner")):
            packed.writestr(zipfile.ZipInfo(name, _EPOCH), source)
    return data.getvalue()


def _sources(folder: Traversable, name: str) -> list[tuple[str, bytes]]:
    found = []
    for item in folder.iterdir():
        if item.is_dir() and item.name != "__pycache__":
            found += _sources(item, f"{name}/{item.name}")
        elif item.name.endswith(".py"):
            found.append((f"{name}/{item.name}", item.read_bytes()))
    return found
