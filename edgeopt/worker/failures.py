"""What a worker's end means for the user: from an exit status, a log and an error's description to an EdgeoptError."""

import re
import signal
from pathlib import Path

from edgeopt import errors
from edgeopt.errors import ConversionError, EdgeoptError, WorkerCrashed, WorkerTimeout
from edgeopt.worker.child import RAISED
from edgeopt.worker.host import KILLED
from edgeopt.worker.process import Ending

_LINES = 10
_TAIL_BYTES = 64 * 1024
_STACK = re.compile(rf"^(?:{RAISED}|Fatal Python error:)", re.MULTILINE)
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Log:
    """The file that a task prints to, from where it began. ``shown`` is its path in messages: where it will be, if it moves."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        self.path, self.shown = path, shown or path
        self._begin = path.stat().st_size if path.exists() else 0

    def last_lines(self) -> str:
        """The last lines the task printed, without the stack below them (the log keeps it): what a library says before it
        gives up tells more than where in Python it did."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._begin, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        before = _STACK.split(text, maxsplit=1)[0]
        lines = [plain(line.rpartition("\r")[2]).rstrip() for line in before.replace("\r\n", "\n").split("\n")]
        return "\n".join([line for line in lines if line][-_LINES:])


def plain(text: str) -> str:
    """``text`` without escape sequences and control characters other than newlines and tabs: safe to show in a terminal."""
    return "".join(c for c in _ESCAPE_SEQUENCE.sub("", text) if c.isprintable() or c in "\n\t")


def raised(task: str, error: dict[str, str], log: Log) -> EdgeoptError:
    """The error that the task raised: its own class where that is one of ours, else a ConversionError that names it."""
    if "edgeopt" in error:
        found = getattr(errors, error["edgeopt"], None)
        known = isinstance(found, type) and issubclass(found, EdgeoptError)
        kind = found if known and found is not None else WorkerCrashed
        return kind(plain(error["what"]), why=plain(error["why"]), fix=plain(error["fix"]))
    message = plain(error["message"])
    why = f"{error['type']}: {message}" if message else error["type"]
    return ConversionError(f"{task} failed", why=_with_lines(why, log), fix=f"read the whole log: {log.shown}")


def timed_out(task: str, seconds: float, log: Log) -> WorkerTimeout:
    """The task was stopped after ``seconds``."""
    return WorkerTimeout(
        f"{task} ran longer than {seconds:g} s and was stopped",
        why=_with_lines("no answer came within the time limit", log),
        fix=f"raise --timeout, or read the log to see where it hangs: {log.shown}",
    )


def crashed(task: str, ending: Ending | None, log: Log, oom_kills: int | None) -> WorkerCrashed:
    """The task's process ended without an answer. ``oom_kills``: how many processes the kernel killed for memory meanwhile."""
    fix = f"read the whole log: {log.shown}"
    status = ending.status if ending else None
    if ending is None:
        why = "it closed its connection but still ran"
    elif status is None or ending.cause == KILLED:
        why = ending.cause
    elif status == -signal.SIGKILL:
        why = _who_killed(oom_kills)
        fix = "free memory, or run fewer targets at once (--jobs 1)"
    elif status < 0:
        why = f"it was killed by {_signal_name(-status)}, a crash in native code"
    else:
        why = f"it ended with exit code {status} before it answered"
    return WorkerCrashed(f"the worker for {task} crashed", why=_with_lines(why, log), fix=fix)


def oom_kills_so_far() -> int | None:
    """Processes that the kernel has killed for lack of memory since it started (Linux 4.13 on); None where it does not say."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return None
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else None


def _who_killed(oom_kills: int | None) -> str:
    if oom_kills is None:
        return "it was killed by SIGKILL, not by edgeopt: most likely for lack of memory (the kernel's records cannot be read)"
    if oom_kills:
        return "it was killed by SIGKILL: for lack of memory (the kernel counted an out-of-memory kill at that time)"
    return (
        "it was killed by SIGKILL, not sent by edgeopt: most likely for lack of memory, by a supervisor outside the kernel's "
        "own count, or by another user of this machine"
    )


def _signal_name(number: int) -> str:
    try:
        found = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return f"{found.name} ({signal.strsignal(number)})"


def _with_lines(why: str, log: Log) -> str:
    lines = log.last_lines()
    return f"{why}\nthe last lines it printed:\n{lines}" if lines else f"{why}; it printed nothing"
