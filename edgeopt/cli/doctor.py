"""``edgeopt doctor``: what is installed, and how to get the rest."""

from edgeopt.cli.endings import Debug, reported


def show_doctor(debug: Debug = False) -> None:
    """Show what is installed and how to get the rest."""
    with reported(debug):
        from edgeopt.report.doctor_view import print_checks
        from edgeopt.starter.doctor import diagnose

        print_checks(diagnose())
