"""Writes the two files of ``edgeopt init``; never over another one."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.errors import UsageError
from edgeopt.model.config import Settings
from edgeopt.model.input_text import parse_input
from edgeopt.starter.choices import Choice, choices
from edgeopt.starter.code_text import code_text
from edgeopt.starter.config_text import config_text
from edgeopt.starter.seen import Seen, look
from edgeopt.support.files import write_atomic

CONFIG_FILE = "edgeopt.toml"
CODE_FILE = "edgeopt_model.py"
EXPORT = f"edgeopt export --config {CONFIG_FILE}"


@dataclass(frozen=True, slots=True)
class Started:
    """What was seen of the model, the targets, and the commands that come next, as a shell reads them."""

    seen: Seen
    choices: tuple[Choice, ...]
    commands: tuple[str, ...]


def start(reference: str, inputs: Sequence[str], meanings: Mapping[str, str], folder: Path) -> Started:
    """Looks at the model and writes CONFIG_FILE and CODE_FILE into ``folder``, both or none.

    ``meanings``: what each setting does, by its name. Raises UsageError where one of the files is there, OutputError where
    one cannot be written, and what an export of the model would raise.
    """
    _refuse_existing(folder)
    seen = look(reference, tuple(map(parse_input, inputs)), folder)
    found = choices()
    config = config_text(seen, found, meanings, CODE_FILE, EXPORT)
    code = code_text(seen, CONFIG_FILE, EXPORT)
    _refuse_existing(folder)  # the model's own code has run meanwhile
    write_atomic(folder / CODE_FILE, code)
    try:
        write_atomic(folder / CONFIG_FILE, config)
    except BaseException:
        (folder / CODE_FILE).unlink()
        raise
    bundle = shlex.quote(str(Settings().options(seen.name).out))
    return Started(seen, found, (EXPORT, f"edgeopt bench {bundle}"))


def _refuse_existing(folder: Path) -> None:
    for name in (CODE_FILE, CONFIG_FILE):
        if os.path.lexists(folder / name):
            why = "it may hold somebody's work, and edgeopt init writes it anew"
            raise UsageError(f"{folder / name} exists", why=why, fix="move it away, or run edgeopt init in another folder")
