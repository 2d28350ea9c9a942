"""Where the program begins: signals first, then all else, whose import takes a while."""

from edgeopt.signals import heed


def main() -> None:
    """The command line, :func:`edgeopt.cli.main`."""
    heed()
    from edgeopt.cli import main as run

    run()
