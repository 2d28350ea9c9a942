#!/usr/bin/env python3
"""Writes the table of operators that edgeopt.coreml evaluates into docs/coreml.md.

.venv/bin/python scripts/coreml_coverage.py
"""

import re
from pathlib import Path

from edgeopt.mil.coverage import markdown

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "coreml.md"
TABLE = re.compile(r"(<!-- operators -->\n).*?(<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """``text`` of the document with the table of today."""
    return TABLE.sub(lambda found: f"{found[1]}{markdown()}\n{found[2]}", text)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
