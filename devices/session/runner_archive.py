"""The runner as one file that a device's Python runs: ``python3 runner.zip job.json``."""

import io
import zipfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_START = """\
import sys

if sys.version_info < (3, 8):
    found = "%s is Python %d.%d.%d" % ((sys.executable,) + tuple(sys.version_info[:3]))
    found = found.replace("\\\\", "/").replace('"', "'")
    print('{"event": "error", "kind": "old_python", "message": "%s; the runner needs 3.8 or newer"}' % found)
    sys.exit(1)
from edgeopt_runner.main import main

sys.exit(main(sys.argv))
"""
"""Says which Python it is in words that any can read, before anything is imported that older ones take for a wrong program."""
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
