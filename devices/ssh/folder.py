"""A private folder for sockets, that goes also where this process is killed."""

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PREFIX = "edgeopt-ssh-"
_OWNER = "owner"
_NOEXEC = getattr(os, "ST_NOEXEC", 0)
"""Linux tells it, macOS does not."""
_YOUNG_S = 60.0
"""A folder younger than this may belong to a process that has not locked it yet."""
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]{1,50}\Z")
"""Names of sockets have at most 103 bytes, and the client would take some characters for tokens."""


class PrivateFolder:
    """``path``, which only this user may enter. Closing it removes it."""

    def __init__(self) -> None:
        base = _base()
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._lock = os.open(self.path / _OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _base() -> Path:
    """The first place whose name is short, and from which a program may be run: /tmp is mounted noexec on some computers."""
    named = tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", str(Path.home())
    usable = [Path(name) for name in named if _PLAIN.match(name) and os.access(name, os.W_OK | os.X_OK)]
    return next((base for base in usable if not os.statvfs(base).f_flag & _NOEXEC), usable[0] if usable else Path("/tmp"))


def _sweep(base: Path) -> None:
    """Removes the folders of this user whose process is gone: the kernel has given their locks free."""
    for folder in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue
            lock = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
