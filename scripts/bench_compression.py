#!/usr/bin/env python3
"""The tables of docs/compression.md: each technique on real data, fine-tuned, exported, timed; some 40 minutes if idle.

    .venv/bin/python scripts/bench_compression.py                     # prints them
    .venv/bin/python scripts/bench_compression.py pipeline channels   # some of them
    .venv/bin/python scripts/bench_compression.py --write             # and puts them into docs/compression.md

Latencies are this machine's, one thread; in brackets their share of the table's first row.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import compression_recipes as recipes  # noqa: E402  beside this file; both import the examples of this checkout
import compression_studies as studies  # noqa: E402

DOCUMENT = ROOT / "docs" / "compression.md"
PARTS: dict[str, Callable[[], recipes.Lines]] = recipes.PARTS | studies.PARTS


def table(part: str, show: Callable[[str], None]) -> str:
    """A Markdown table; ``show`` gets each line as soon as it is known."""
    lines: list[str] = []
    for cells in PARTS[part]():
        lines.append("| " + " | ".join(cells) + " |")
        show(lines[-1])
        if len(lines) == 1:
            lines.append("|" + "---|" * len(cells))
            show(lines[-1])
    return "\n".join(lines)


def put(part: str, text: str) -> None:
    """Replaces the table between ``<!-- part -->`` and ``<!-- end -->``."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"{DOCUMENT} has no <!-- {part} --> ... <!-- end --> to put the table into")
    DOCUMENT.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", document), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/compression.md")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        print(f"\n{part}")
        text = table(part, lambda line: print(line, flush=True))
        if arguments.write:
            put(part, text)


if __name__ == "__main__":
    main()
