#!/usr/bin/env python3
"""Writes docs/exit-codes.md from the tree in edgeopt/errors.py: .venv/bin/python scripts/exit_codes.py"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgeopt import errors  # noqa: E402

DOCUMENT = ROOT / "docs" / "exit-codes.md"
_LINE = re.compile(r"^[ │├└─]*(\w+) +(\d+) +(.*)$", re.MULTILINE)
HEAD = """# Exit codes

Every failure of edgeopt says what happened, why, and the next step, and ends with a code of its own. 0 means that all that
was asked for is there. Where several targets or devices failed, the code is that of the worst failure: one whose artifact
computes something else goes before one that loses too much, that before a crash or a refusal (`WORST_FIRST` in
`edgeopt/errors.py`).

| code | name | when |
|---|---|---|
| 0 | | all that was asked for was made, measured or found |
"""
TAIL = """| 130 | Interrupted | Ctrl-C: what was finished is kept |

Written by `scripts/exit_codes.py` from `edgeopt/errors.py`; a test holds that it is current.
"""


def rows() -> list[tuple[int, str, str]]:
    """Code, name and meaning of every error, by code."""
    return sorted((int(code), name, what) for name, code, what in _LINE.findall(errors.__doc__ or ""))


def markdown() -> str:
    return HEAD + "".join(f"| {code} | {name} | {what} |\n" for code, name, what in rows()) + TAIL


if __name__ == "__main__":
    DOCUMENT.write_text(markdown(), encoding="utf-8")
