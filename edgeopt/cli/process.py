"""The process around a command: its streams, and its end."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from edgeopt.cli.endings import refused_installation, told
from edgeopt.support.signals import heed
from edgeopt.support.surroundings import Unfailing, end_process

_STANDARD_OUTPUT = Path("standard output")
_INSTALLS = "--install-completion"


def run(app: Callable[..., Any], name: str) -> None:
    """Runs ``app`` as the program ``name``, and ends the process with its exit code, whatever the user's code left running."""
    _open_streams()
    heed()
    try:
        app(prog_name=name)  # also as python -m edgeopt.cli: the shells' completion knows it by this name
        code: Any = 0
    except SystemExit as end:
        code = end.code
    except (OSError, UnicodeError) as error:  # of what typer itself does: a command reports its own
        code = refused_installation(error) if _INSTALLS in sys.argv else _not_written(error)
    code = _flushed(code)
    if any(not one.daemon for one in threading.enumerate() if one is not threading.main_thread()):
        atexit._run_exitfuncs()
        end_process(code if isinstance(code, int) else 1)  # Python itself would wait for these threads
    sys.exit(code)


def _open_streams() -> None:
    """Streams that were closed lead nowhere: the next file to be opened would get their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                nothing = os.open(os.devnull, os.O_RDWR)
                if nothing != number:
                    os.dup2(nothing, number)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115  for as long as the process lives
    errors: Any = FileIO(sys.stderr.fileno(), "w", closefd=False)
    sys.stderr = Unfailing(errors, sys.stderr.encoding, "backslashreplace", line_buffering=True, write_through=True)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character must not end the run


def _flushed(code: Any) -> Any:
    """``code``, or that of an output which could not be written to its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader has what it wanted
    except OSError as error:
        code = code or _not_written(error)
    else:
        return code
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not raise again
    return code


def _not_written(error: OSError | UnicodeError) -> int:
    from edgeopt.support.files import output_error

    return told(output_error(_STANDARD_OUTPUT, error) if isinstance(error, OSError) else error)
