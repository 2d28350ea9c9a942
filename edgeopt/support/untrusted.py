"""Files that somebody else wrote: only regular ones are opened, and no more is read than such a file can need.

Opening a FIFO waits for ever, a device has no end, 200 GB of zeros are sent as a few bytes, and a folder may hold millions of
names. Everything here raises OSError, with the reason in words as its ``strerror``, before it reads or allocates.
"""

import errno
import os
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any

from edgeopt.errors import ConfigError

SETTINGS_BYTES = 1 << 20
"""What somebody writes by hand: targets, recipes, edgeopt.toml, devices.toml."""
RECORD_BYTES = 1 << 25
"""What edgeopt wrote: manifests, lists of digests, results of steps."""
MESSAGE_BYTES = (1 << 31) - 1
"""A protobuf message and a flatbuffer end here."""
ARTIFACT_BYTES = 1 << 36
"""An artifact with all its weights: 64 GiB."""
MOST_FILES, DEEPEST = 10_000, 32
"""In an artifact that is a folder; a Core ML package has three."""
_SHOWN = 200
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFLNK: "a link",
}  # fmt: skip


class NotRead(OSError):
    """A file that is not opened, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EINVAL, why)

    def __str__(self) -> str:
        return str(self.strerror)


def opened(path: Path, most: int = ARTIFACT_BYTES) -> BufferedReader:
    """The regular file ``path``, links followed. Raises NotRead where it is none or has more than ``most`` bytes."""
    _check(path.stat(), most)  # first: to open a device may do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(handle), most)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read(path: Path, most: int) -> bytes:
    """The content of ``path``, as :func:`opened`; also where it grows meanwhile."""
    with opened(path, most) as file:
        content = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)  # it allocates as much as it is asked for
    if len(content) > most:
        raise NotRead(_too_large(most))
    return content


def read_text(path: Path, most: int = SETTINGS_BYTES) -> str:
    """As :func:`read`, as UTF-8. Raises UnicodeDecodeError too."""
    return read(path, most).decode("utf-8")


def toml(text: str, label: str) -> dict[str, Any]:
    """``text`` as TOML. Raises ConfigError, which calls it ``label``, for any text that is none."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{label} is nested too deep", why="no settings need that", fix="write it flat") from error
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise ConfigError(f"{label} is not TOML", why=str(error), fix="correct that line") from error


def check_artifact(path: Path) -> None:
    """Raises OSError where ``path`` is no regular file, nor a folder of nothing but regular files and folders.

    A link inside a folder is refused, wherever it leads; of too many files, bytes and levels only what is needed is looked at.
    """
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        return _check(found, ARTIFACT_BYTES)
    count, size, folders = 0, 0, [(os.fspath(path), 0)]
    while folders:
        folder, depth = folders.pop()
        if depth > DEEPEST:
            raise NotRead(f"it has more than {DEEPEST} folders in each other")
        with os.scandir(folder) as entries:
            for entry in entries:
                inside = entry.stat(follow_symlinks=False)
                count, size = count + 1, size + inside.st_size
                if count > MOST_FILES:
                    raise NotRead(f"it holds more than {MOST_FILES} files")
                if stat.S_ISDIR(inside.st_mode):
                    folders.append((entry.path, depth + 1))
                elif not stat.S_ISREG(inside.st_mode):
                    raise NotRead(f"{entry.name} in it is {_kind(inside)}")
    if size > ARTIFACT_BYTES:
        raise NotRead(_too_large(ARTIFACT_BYTES))


def shown(value: object) -> str:
    """``repr(value)``, cut where it is long: it stands in a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check(found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotRead(f"it is {_kind(found)}, not a regular file")
    if found.st_size > most:
        raise NotRead(_too_large(most))


def _kind(found: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a special file")


def _too_large(most: int) -> str:
    unit, name = next((1 << bits, name) for bits, name in ((30, "GiB"), (20, "MiB"), (0, "bytes")) if most + 1 >= 1 << bits)
    return f"it has more than {(most + 1) // unit} {name}"
