"""``python -m tests.isa FOLDER``: makes the library in FOLDER and prints its path; says why not, with exit code 1."""

import sys
from pathlib import Path

from tests import isa

if __name__ == "__main__":
    try:
        print(isa.library(Path(sys.argv[1])))
    except isa.Unavailable as error:
        sys.exit(f"EDGEOPT_TEST_ISA: {error}")
