"""What the folder's own descriptions say of it is so."""

import re
from pathlib import Path

from edgeopt.devices import runner
from edgeopt.devices import transport as base
from edgeopt.devices.runner import failures

FOLDER = Path(str(runner.__file__)).parent


def test_every_module_that_the_runner_s_description_names_is_there() -> None:
    named = set(re.findall(r"\b(\w+\.py)\b", runner.__doc__ or ""))
    assert {"job.py", "main.py", "measure.py", "predict.py", "lines.py"} <= named
    assert [name for name in named if not (FOLDER / name).is_file()] == []


def test_the_runner_s_description_lists_every_kind_of_error() -> None:
    (listed,) = re.findall(r"``error``: kind \(([\w, ]+)\)", runner.__doc__ or "")
    assert tuple(listed.split(", ")) == failures.KINDS


def test_the_description_of_transports_names_their_operations() -> None:
    (count, listed) = re.findall(r"(\w+) operations[^(]*\(([\w, ]+)\)", base.__doc__ or "")[0]
    operations = [name for name, value in vars(base.Transport).items() if callable(value) and not name.startswith("_")]
    assert listed.split(", ") == operations
    assert (count, len(operations)) == ("four", 4)
