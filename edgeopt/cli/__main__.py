"""``python -m edgeopt.cli``: the same as ``edgeopt``."""

from edgeopt.cli.entry import main

main()
