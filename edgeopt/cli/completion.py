"""What the Tab key offers for targets and devices. Every other file or folder is left to the shell, which can quote it.

A word that is offered reaches the command line as it is (bash), or through ``eval`` (zsh), and it may come from a file that
somebody else wrote. So a name is offered only where it holds nothing that a shell reads: letters, digits and a few signs.
Nothing here raises or prints: a message would stand in the middle of the line that the user is typing.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

DEVICES_FILE = "devices.toml"
"""As :mod:`edgeopt.devices.devices_toml` has it, which takes too long to import between two keys."""
LOCAL = "local"
MOST_BYTES = 1 << 20
"""Of a devices.toml: somebody writes it by hand."""

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH = re.compile(r"/?[\w.][\w.+@%,-]*(?:/[\w.+@%,-]*)*")


def targets(incomplete: str) -> list[str]:
    """Targets by name, and TOML files with the folders on the way to them."""
    from edgeopt.targets.names import names

    known = [name for name in names() if name.startswith(incomplete) and _PATH.fullmatch(name)]
    found = list(_toml_files(incomplete))
    plain = [path for path in found if _PATH.fullmatch(path)]
    if not known and (len(plain) < len(found) or plain == [path for path in plain[:1] if path.endswith("/")]):
        return []  # the shell completes a name that needs quotes, and goes on into a folder, without a blank behind it
    return [*known, *plain]


def devices(incomplete: str) -> list[str]:
    """``local`` and the devices of both devices.toml."""
    from edgeopt.support.files import config_folder

    found = {LOCAL}
    for file in (config_folder() / DEVICES_FILE, Path(DEVICES_FILE)):
        found |= {name for name in _tables(file) if _DEVICE.fullmatch(name)}
    return sorted(name for name in found if name.startswith(incomplete))


def _toml_files(incomplete: str) -> Iterator[str]:
    """Paths that begin with ``incomplete``: files that end in ``.toml``, and folders, with a slash behind them."""
    folder, slash, beginning = incomplete.rpartition("/")
    try:
        entries = sorted(os.scandir(folder + slash or "."), key=lambda entry: entry.name)
        for entry in entries:
            if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
                continue
            if entry.is_dir():
                yield f"{folder}{slash}{entry.name}/"
            elif entry.name.endswith(".toml"):
                yield f"{folder}{slash}{entry.name}"
    except (OSError, ValueError):  # no such folder, none that may be read, or no name of one
        return


def _tables(file: Path) -> list[str]:
    """The names of the tables in ``file``; none where it is missing or cannot be read, which the command itself will tell."""
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:  # a pipe would wait for ever
            return []
        return [name for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items() if isinstance(table, dict)]
    except (OSError, ValueError, RecursionError):
        return []
