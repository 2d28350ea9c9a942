"""A user's folder, as tests of whole exports write it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def written(folder: Path, source: str) -> Iterator[Path]:
    """``folder`` with ``source`` in its net.py; inside, the cache stands there too, empty at first."""
    (folder / "net.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEOPT_CACHE", str(folder / "cache"))
        yield folder
