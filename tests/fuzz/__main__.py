"""``python -m tests.fuzz``: what ``scripts/fuzz`` runs."""

import argparse
import logging
import sys
import warnings


def main() -> int:
    if "--parsers" in sys.argv:
        from tests.fuzz.parsers.__main__ import main as parsers

        return parsers([each for each in sys.argv[1:] if each != "--parsers"])
    return networks()


def networks() -> int:
    from tests.fuzz.hunt import FORMATS, hunt

    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Exports random networks and compares them with themselves; with --parsers: mutated files, see there.",
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the next has the next one")
    parser.add_argument("--formats", nargs="+", choices=sorted(FORMATS), default=sorted(FORMATS))
    parser.add_argument("--targets", nargs="+", help="these instead of the formats' own, as TARGET or TARGET/FORMAT")
    parser.add_argument("--together", type=int, default=6, help="networks in one export (default: 6)")
    parser.add_argument("--steps", type=int, default=9, help="the most operators of a network (default: 9)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    targets = arguments.targets or dict.fromkeys(target for fmt in arguments.formats for target in FORMATS[fmt])
    return hunt(arguments.minutes, arguments.seed, tuple(targets), arguments.together, arguments.steps)


if __name__ == "__main__":
    sys.exit(main())
