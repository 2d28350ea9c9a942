"""Where the program begins: signals first, then all else, whose import takes a while."""

from edgeopt.support.signals import heed


def main() -> None:
    """The command line, :func:`edgeopt.cli.app.main`."""
    heed()
    from edgeopt.cli.app import main as run

    run()
