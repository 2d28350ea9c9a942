"""Runs on the device: unpacks the wheels of an archive into a folder. Standard library, Python 3.8 or newer.

    python3 unpack.py ARCHIVE FOLDER

The archive is a zip file that holds wheels as they are (not compressed again), so that nothing is written twice. Exit code 28
says that the disk is full.
"""

from __future__ import annotations

import errno
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

NO_ROOM = 28


def place_of(name: str) -> PurePosixPath | None:
    """Where a wheel's file goes, or None for what only an installer needs (PEP 427: scripts, headers and data).

    Raises ValueError for a path that climbs out.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError("a wheel holds a path that climbs out: " + ascii(name)[:200])
    if not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if path.parts[1:2] in (("purelib",), ("platlib",)) and path.parts[2:] else None


def unpack(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Writes the files of ``wheel`` below ``folder``."""
    for info in wheel.infolist():
        place = None if info.is_dir() else place_of(info.filename)
        if place is not None:
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(info) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def main(archive: str, folder: str) -> None:
    try:
        with zipfile.ZipFile(archive) as outer:
            for info in outer.infolist():
                with outer.open(info) as content, zipfile.ZipFile(content) as wheel:
                    unpack(wheel, Path(folder))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(NO_ROOM)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
