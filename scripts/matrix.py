#!/usr/bin/env python3
"""Exports every architecture of tests/matrix to every kind of target; writes docs/architectures.md and expected.toml.

.venv/bin/python scripts/matrix.py            # all of them, and write
.venv/bin/python scripts/matrix.py vit bert   # some of them, and only print
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.matrix.architectures import ARCHITECTURES  # noqa: E402
from tests.matrix.table import Cell, markdown, measure, shown, write_expected  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="default: every one")
    parser.add_argument("--jobs", type=int, default=2, help="targets made at the same time (default: 2)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ARCHITECTURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(ARCHITECTURES)}")
    rows: dict[str, tuple[Cell, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or ARCHITECTURES:
            start = time.perf_counter()
            rows[name] = measure(ARCHITECTURES[name](), Path(folder) / name, arguments.jobs)
            print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
            for cell in rows[name]:
                print(f"  {cell.column}: {shown(cell)}  {cell.cause}", flush=True)
    if not arguments.names:
        write_expected(rows)
        (ROOT / "docs" / "architectures.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
