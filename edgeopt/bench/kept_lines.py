"""The lines that runs print, kept in a file as they come, as far as there is room for them."""

from contextlib import suppress
from pathlib import Path
from typing import TextIO

from edgeopt.support.files import output_error


class KeptLines:
    """Lines in ``path``. Where there is no room for one, the file is removed, since a part would pass for all; ``lost``: why.

    What they say is in the result too: they are for whoever looks for a fault.
    """

    def __init__(self, path: Path) -> None:
        self.lost = ""
        self._path = path
        self._file: TextIO | None = None
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            self._give_up(error)

    def keep(self, line: str) -> None:
        """Writes ``line``, at once."""
        if self._file is None:
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """No more lines come."""
        if self._file is not None:
            self._file.close()

    def _give_up(self, error: OSError) -> None:
        self.lost = f"{self._path.name} is not kept: {output_error(self._path, error).why}"
        drop(self._path)
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # what was still to be written
                file.close()


def drop(path: Path) -> None:
    """Removes ``path`` where that is possible."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
