"""Folders that end with their process; what a killed process left is cleared by the next one.

Such a folder holds the file MARK, which its process keeps locked: the system gives a lock back however a process ends. So a
folder with a mark that is not locked is edgeopt's own and nobody's any more, and a folder without one is never touched.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeopt.support.files import writing

MARK = ".edgeopt-scratch"
PREFIX = "edgeopt-"
"""Of those in the system's temporary folder."""
_cleared: set[Path] = set()


class Scratch:
    """A new folder, private to the user. ``prefix``: what its name begins with. Raises OSError where it cannot be made."""

    def __init__(self, parent: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            self._mark = os.open(self.path / MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._mark, fcntl.LOCK_EX)
            os.write(self._mark, f"{os.getpid()}\n".encode())  # an empty mark is one that is not locked yet
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def close(self) -> None:
        """Removes the folder and all that is in it; it is there no longer, or is left to the next process."""
        remove_scratch(self.path)
        os.close(self._mark)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary one, while the block runs. Clears what killed processes left there.

    Raises OutputError where it cannot be made.
    """
    parent = clear_temporary()
    with writing(parent):
        found = Scratch(parent, PREFIX)
    try:
        yield found.path
    finally:
        found.close()


def clear_temporary() -> Path:
    """The system's temporary folder, without what killed processes left there: cleared once in each process."""
    parent = Path(tempfile.gettempdir())
    if parent not in _cleared:
        _cleared.add(parent)
        clear(parent, PREFIX)
    return parent


def clear(parent: Path, prefix: str) -> None:
    """Removes the abandoned folders in ``parent`` whose names begin with ``prefix``."""
    for folder in abandoned(parent, prefix):
        remove_scratch(folder)


def abandoned(parent: Path, prefix: str) -> Iterator[Path]:
    """Folders of this user's with ``prefix`` whose process is gone; each is locked until the next is asked for."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith(prefix) or not entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError), _left(Path(entry.path)) as left:
                if left:
                    yield Path(entry.path)


@contextmanager
def _left(folder: Path) -> Iterator[bool]:
    """Whether ``folder`` is nobody's any more. Raises OSError where it has no mark, or one that is locked."""
    mark = os.open(folder / MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(mark).st_size > 0 and folder.stat().st_uid == os.geteuid()
    finally:
        os.close(mark)


def remove_scratch(folder: Path) -> None:
    """``folder`` with all in it, its mark last: without that, nobody would know whose the rest is."""
    with suppress(OSError):
        for inside in folder.iterdir():
            if inside.name != MARK:
                if inside.is_dir() and not inside.is_symlink():
                    shutil.rmtree(inside, ignore_errors=True)
                else:
                    inside.unlink()
    shutil.rmtree(folder, ignore_errors=True)
