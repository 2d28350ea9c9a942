"""Standard output as JSON lines, kept clean of whatever a runtime prints there."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MAX_TEXT = 4000
"""Characters of an error's message: some runtimes print a whole graph."""


class Lines:
    """Writes events, one JSON object a line, each in one piece and at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def instead_of_stdout(cls) -> Lines:
        """Takes standard output for itself. What anything else prints there from now on, C code included, goes to stderr."""
        sys.stdout.flush()
        own = os.dup(1)
        os.dup2(2, 1)
        return cls(own)

    def write(self, event: str, **fields: Any) -> None:
        """Raises ValueError for a number that JSON cannot hold, OSError where nobody reads any more."""
        line = json.dumps(dict({"event": event}, **fields), allow_nan=False, separators=(",", ":")) + "\n"
        data = memoryview(line.encode("ascii"))
        while data:
            data = data[os.write(self._descriptor, data) :]

    def error(self, kind: str, message: str) -> None:
        self.write("error", kind=kind, message=message[:MAX_TEXT])
