"""One mutant at one door, in a process of its own with limits on memory and time."""

import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.errors import EdgeoptError

CPU_S, WALL_S = 10, 60
"""Of the processor, which other work does not lengthen; and of the clock, for what waits."""
MEMORY_BYTES = 1 << 30
"""Beyond what the libraries take that are loaded already."""
LONGEST_MESSAGE = 6000
_ROOT = str(Path(__file__).parents[3])


@dataclass(frozen=True)
class Outcome:
    """``kind``: taken, refused, or else what was found; ``place``: where, ``detail``: with which words."""

    kind: str
    place: str = ""
    detail: str = ""

    @property
    def fine(self) -> bool:
        """Whether it is as promised."""
        return self.kind in ("taken", "refused")


def attempt(door: Callable[[Path], None], path: Path) -> Outcome:
    """What comes of ``door(path)``."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _child(door, path, writing)
    os.close(writing)
    try:
        told = _told(reading)
    finally:
        os.close(reading)
    if told is None:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if told is None:
        return Outcome("hangs", detail=f"{WALL_S} s of the clock")
    if not told:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        slow = number in (signal.SIGXCPU, signal.SIGKILL)
        return Outcome("slow" if slow else "crash", detail=f"{CPU_S} s of the processor" if slow else f"status {status}")
    return Outcome(**json.loads(told))


def _told(reading: int) -> bytes | None:
    """All that the child writes; None where it takes too long."""
    said, until = b"", time.monotonic() + WALL_S
    while (left := until - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        piece = os.read(reading, 1 << 16)
        if not piece:
            return said
        said += piece
    return None


def _child(door: Callable[[Path], None], path: Path, writing: int) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES,) * 2)
        os.write(writing, json.dumps(vars(_outcome(door, path))).encode())
    finally:
        os._exit(0)


def _outcome(door: Callable[[Path], None], path: Path) -> Outcome:
    try:
        door(path)
    except EdgeoptError as error:
        if memory := _out_of_memory(error):
            return Outcome("memory", _place(memory), str(memory)[:300])
        if len(str(error)) > LONGEST_MESSAGE:
            return Outcome("long message", _place(error), str(error)[:300])
        return Outcome("refused", type(error).__name__)
    except BaseException as error:  # whatever it is, it is what this looks for
        kind = "memory" if _out_of_memory(error) else type(error).__name__
        return Outcome(kind, _place(error), str(error)[:300])
    return Outcome("taken")


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error behind ``error`` that is there for want of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _place(error: BaseException) -> str:
    """The last line of edgeopt's own that led there."""
    frames: list[Any] = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if f.filename.startswith(_ROOT) and "/tests/" not in f.filename and "site-packages" not in f.filename
    ]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"
