"""``python -m tests.fuzz.parsers``: what ``scripts/fuzz --parsers`` runs."""

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from tests.fuzz.parsers.doors import DOORS
from tests.fuzz.parsers.hunt import hunt


def main(arguments: list[str]) -> int:
    description = "Mutated files and answers at all that reads them: an EdgeoptError or a right answer, in 10 s and 1 GB."
    parser = argparse.ArgumentParser(prog="scripts/fuzz --parsers", description=description)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant of each; the next has the next one")
    parser.add_argument("--only", default=",".join(DOORS), help=f"some of {','.join(DOORS)}")
    parser.add_argument("--count", type=int, default=0, help="mutants of each, at most")
    parser.add_argument("--keep", type=Path, help="where finds go (default: a new folder)")
    parser.add_argument("--bundle", type=Path, help="an export whose files are samples too")
    parser.add_argument("--try", type=Path, dest="again", help="one kept mutant, here in this process")
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := set(names) - set(DOORS):
        parser.error(f"there is no {unknown.pop()!r}: {', '.join(DOORS)}")
    if given.again is not None:
        DOORS[names[0]].go(given.again)
        return 0
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="edgeopt-fuzz-"))
    return hunt(names, given.minutes, given.seed, given.count, keep, given.bundle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
