"""How every command ends: a message, and an exit code of its own."""

import atexit
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edgeopt.support.signals import interruptible, sent

if TYPE_CHECKING:
    from edgeopt.core import Manifest

BROKEN_PIPE_EXIT_CODE = 1  # as rich and click end when the reader has gone
_OUTPUT = Path("all that was to be written, on standard output or elsewhere")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


class Commands(TyperGroup):
    """Commands that refuse an empty argument: a script's variable that nobody has set, where something was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for before, argument in pairwise(["", *args]):
            option, sign, value = argument.partition("=")
            is_empty = not argument or (option.startswith("--") and sign and not value)
            if is_empty and not ctx.resilient_parsing:  # as a shell's completion has it
                from edgeopt.errors import UsageError

                named = option or (before if before.startswith("-") else "an argument")
                fix = "give it a value, or leave it out; in a script, see whether the variable is set"
                raise typer.Exit(told(UsageError(f"{named} is empty", fix=fix)))
        return super().parse_args(ctx, args)


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Ends the program with a message and the right exit code for whatever is raised inside."""
    from edgeopt.support import extras
    from edgeopt.support.files import output_error
    from edgeopt.support.surroundings import kept

    try:
        with interruptible(), kept():  # user code may close what a message goes to
            yield
        if code := sent():  # a library swallowed it, and all was finished
            raise typer.Exit(code)
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(_interrupted()) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not raise again
        raise typer.Exit(BROKEN_PIPE_EXIT_CODE) from None
    except BaseException as error:  # the user's code may have exceptions of any kind
        if sent():  # an import that it interrupts may raise anything
            raise typer.Exit(_interrupted()) from None
        if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
            raise  # a library's own end, such as rich's when the reader has gone
        if isinstance(error, ModuleNotFoundError):  # a part of an extra may have been uninstalled
            error = extras.missing_for(error) or error
        if isinstance(error, OSError) and error.filename is None and error.errno in _DISK:
            error = output_error(_OUTPUT, error)
        # sys.exit(0), in the user's code: nothing that was asked for is there
        raise typer.Exit(told(error, debug)) from None


def _interrupted() -> int:
    typer.echo("\ninterrupted: nothing half-written is left behind", err=True)
    return interrupted_exit_code()


def interrupted_exit_code() -> int:
    """As a shell gives it for the signal that came."""
    from edgeopt.errors import INTERRUPTED_EXIT_CODE

    return sent() or INTERRUPTED_EXIT_CODE


def exit_code_for(manifest: "Manifest", named: Iterable[str] = ()) -> int:
    """0, or that of the worst failure in a bundle; NotApplicable's where a target that was ``named`` is skipped whole."""
    from edgeopt.errors import NotApplicable, worst_of
    from edgeopt.targets.names import name_of

    worst = worst_of(result.error for result in manifest.results if result.status in ("failed", "unverified"))
    made = {result.target for result in manifest.results if result.status != "skipped"}
    return worst or (0 if all(name_of(name) in made for name in named) else NotApplicable.exit_code)


def leave_threads(exit_code: int) -> None:
    """At the program's end, ends it before Python does, which kills a thread that is inside a library and so aborts."""

    from edgeopt.support.surroundings import end_process

    def end() -> None:
        atexit.unregister(end)
        atexit._run_exitfuncs()  # the others: ours, the last that was registered, comes first and does not return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        end_process(exit_code)

    atexit.register(end)


def refused_installation(error: OSError | UnicodeError) -> int:
    """Says why the shell's completion could not be installed; the exit code."""
    from edgeopt.errors import OutputError
    from edgeopt.support.files import output_error

    file = Path(getattr(error, "filename", None) or Path.home())
    if isinstance(error, OSError):
        refused = output_error(file, error)
        refused = OutputError(refused.what, why=refused.why, fix="edgeopt --show-completion prints what your shell has to read")
    else:
        why, fix = f"the shell's start file is not UTF-8: {error}", "edgeopt --show-completion prints what it has to read"
        refused = OutputError("the completion cannot be installed", why=why, fix=fix)
    return told(refused)


def told(error: BaseException, debug: bool = False) -> int:
    """Says on standard error what happened; the exit code for it."""
    import traceback

    from edgeopt.errors import EdgeoptError, redacted_text
    from edgeopt.model.user_code import cause, summary
    from edgeopt.report.text import plain

    if debug:
        typer.echo(plain(redacted_text("".join(traceback.format_exception(error)))), err=True)
    if isinstance(error, EdgeoptError):
        typer.echo(plain(f"error: {error.message()}"), err=True)
    elif isinstance(error, SystemExit):
        typer.echo(plain(f"error: the program was ended from inside\n  cause: {cause(error)}"), err=True)
    else:
        hint = "" if debug else "; run again with --debug to see where"
        typer.echo(plain(f"error: unexpected {redacted_text(summary(error))}{hint}"), err=True)
    return error.exit_code if isinstance(error, EdgeoptError) else 1


@contextmanager
def for_devices(debug: bool) -> Iterator[None]:
    """As ``reported``, for what needs the extra ``devices``: where that is missing, it is told before anything else."""
    with reported(debug):
        from edgeopt.support import extras

        extras.require("devices", "nothing can be measured on devices here")
        yield
