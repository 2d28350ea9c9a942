"""One export at a time for one output: a lock file beside it, which is removed only where edgeopt has written it."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from edgeopt.errors import OutputError

_MARK = b"edgeopt writes to the folder of this name while this file is locked\n"
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and a FIFO does not wait."""
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


class OutputLock:
    """Held from when it is made until :meth:`release`, or until the process ends.

    An empty file that is there is used, and stays. Raises OutputError where the file has anything of somebody else's, which
    stays as it is, and where another process holds it; OSError where none can be made.
    """

    def __init__(self, out: Path) -> None:
        self._path, self._out = out.with_name(f".{out.name}.lock"), out
        while not self._is_taken():
            os.close(self._file)

    def release(self) -> None:
        """The file is gone, where it is edgeopt's."""
        try:
            if self._is_own and self._is_there():
                self._path.unlink()
        finally:
            os.close(self._file)

    def _is_taken(self) -> bool:
        """Whether the file is locked and still there: one that was opened before its release is nobody's."""
        is_new = self._open()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_there():
                return False
            if is_new:
                os.write(self._file, _MARK)
            self._is_own = is_new or self._is_marked()
            return True
        except BlockingIOError as error:
            os.close(self._file)
            fix = "wait until it has ended, or choose another folder with --out"
            raise OutputError(
                f"cannot write {self._out}", why="another export is writing to it at this moment", fix=fix
            ) from error
        except BaseException:
            os.close(self._file)
            raise

    def _open(self) -> bool:
        """Whether the file is new."""
        while True:
            try:
                self._file = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
                return True
            except FileExistsError:
                pass
            try:
                self._file = os.open(self._path, _FLAGS)
            except FileNotFoundError:
                continue  # it has just been released
            except OSError as error:
                if error.errno in _NO_FILE:
                    raise self._foreign("it is no file") from error
                raise
            return False

    def _is_marked(self) -> bool:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise self._foreign("it is no file")
        content = os.read(self._file, len(_MARK) + 1)
        if content not in (b"", _MARK):
            raise self._foreign("it holds something that edgeopt has not written")
        return bool(content)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _foreign(self, why: str) -> OutputError:
        fix = "choose another folder with --out, or move that file elsewhere"
        return OutputError(f"{self._path}, edgeopt's lock, is somebody else's", why=why, fix=fix)
