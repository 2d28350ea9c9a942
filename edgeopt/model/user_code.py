"""Where in the user's own code something went wrong: the line that a person can go and change."""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeopt.errors import EdgeoptError
from edgeopt.support.surroundings import kept

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_HOME = Path(__file__).resolve().parents[1]
# In a checkout three sub-packages are links to folders beside the package.
_OWN = tuple(str(path) for path in (_HOME, *((_HOME / name).resolve() for name in ("targets", "converters", "devices"))))
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*(?:\n\s+(?P<code>\S[^\n]*))?')


def summary(error: BaseException, limit: int = 400) -> str:
    """``error`` in one line: ``ValueError: bad size``; of a long message the first paragraph, up to ``limit`` characters."""
    text = " ".join(_said(error).strip().split("\n\n")[0].split())[:limit]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def users_line(error: BaseException) -> str:
    """The innermost line of code that is the user's: ``net.py, line 12: y = f(x)``; empty where there is none.

    torch.export puts the user's stack into the text of some of its errors instead of the traceback.
    """
    if line := line_in(_said(error)):
        return line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    return f"{last.filename}, line {last.lineno}" + (f": {last.line}" if last.line else "")


def line_in(text: str) -> str:
    """The innermost line of the user's in a printed stack, as :func:`users_line` writes it; empty where there is none."""
    found = [match for match in _FRAME.finditer(text) if _is_users(match["file"])]
    if not found:
        return ""
    match = found[-1]
    return f"{match['file']}, line {match['line']}" + (f": {match['code']}" if match["code"] else "")


def cause(error: BaseException) -> str:
    """:func:`summary` with :func:`users_line` behind it."""
    line = users_line(error)
    return f"{summary(error)} ({line})" if line else summary(error)


def _said(error: BaseException) -> str:
    """``str(error)``; of one that cannot say anything, nothing."""
    try:
        return str(error)
    except Exception:  # the user's own class may raise whatever it likes
        return ""


@contextmanager
def reported_as(error_of: Callable[[BaseException], EdgeoptError]) -> Iterator[None]:
    """Around a call of the user's code: whatever it raises is raised as ``error_of`` it; Ctrl-C and our own errors pass.

    The program's own streams and places of modules are as they were afterwards (:func:`surroundings.kept`).

    ``sys.exit()`` and the like are no exceptions to Python's ``except Exception``; one in a user's function would end the
    program with the exit code 0 and nothing made.
    """
    try:
        with kept():
            yield
    except (EdgeoptError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise error_of(error) from error


def is_users_file(filename: str) -> bool:
    """Whether ``filename`` lies outside Python, the installed packages and edgeopt."""
    return not filename.startswith((*_INSTALLED, *_OWN))


def _is_users(filename: str) -> bool:
    return not filename.startswith("<") and is_users_file(filename)
