"""What a message calls a command on a device."""

import pytest

from edgeopt.devices.refusals import shown_command
from edgeopt.devices.variables import with_variables

SCRIPT = "# what it does\ncase $1 in\n" + "x" * 500 + "\nesac\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("python3", "-c", "print(1)"), "python3 -c 'print(1)'"),
        (("sh", "-c", SCRIPT, "own_folder.sh", "", "make"), "own_folder.sh '' make"),
        (with_variables({"SECRET": "x"}, ("python3", "job.json")), "python3 job.json"),
        (with_variables({"A": "x"}, ("sh", "-c", SCRIPT, "facts.sh", "part")), "facts.sh part"),
        (("sh", "-c", "exit 3"), "sh -c 'exit 3'"),
    ],
)
def test_a_script_that_is_sent_along_is_called_by_its_name(command: tuple[str, ...], words: str) -> None:
    assert shown_command(command) == repr(words)
