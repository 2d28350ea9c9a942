"""Tasks for the worker tests: each ends in one of the ways a conversion can end."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.errors import CalibrationError, EdgeoptError

Arrays = tuple[NDArray[Any], ...]


def echo(request: dict[str, Any]) -> dict[str, Any]:
    print("to standard output")
    print("to standard error", file=sys.stderr)
    os.system("echo from a program it started")
    return request


def imported(request: dict[str, Any]) -> dict[str, Any]:
    return {"torch": "torch" in sys.modules}


def leave_a_folder(request: dict[str, Any]) -> dict[str, Any]:
    return {"left": tempfile.mkdtemp()}


def where(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "torch": "torch" in sys.modules,
        "wave": "wave" in sys.modules,
        "threads": threading.active_count(),
        "stdin": sys.stdin.read(),
    }


def segfault(request: dict[str, Any]) -> dict[str, Any]:
    for number in range(12):
        print("line", number)
    ctypes.string_at(0)
    return {}


def abort(request: dict[str, Any]) -> dict[str, Any]:
    os.abort()


def leave(request: dict[str, Any]) -> dict[str, Any]:
    print("about to leave")
    os._exit(request["code"])


def killed(request: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang(request: dict[str, Any]) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("\x1b[31mstill\x1b[0m 10%\rstill 99%")
    while True:
        pass


def grandchild(request: dict[str, Any]) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("grandchild", child.pid)
    if request.get("die"):
        os._exit(0)
    time.sleep(600)
    return {}


class UnheardError(EdgeoptError):
    """A class that the main process does not know."""


def known_error(request: dict[str, Any]) -> dict[str, Any]:
    raise CalibrationError("what \x1b[2J", why="why", fix="fix")


def unknown_error(request: dict[str, Any]) -> dict[str, Any]:
    raise UnheardError("what", why="why", fix="fix")


def value_error(request: dict[str, Any]) -> dict[str, Any]:
    print("converting layer 7")
    raise ValueError("no such operator")


def missing_module(request: dict[str, Any]) -> dict[str, Any]:
    raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")


def exit_call(request: dict[str, Any]) -> dict[str, Any]:
    sys.exit("a library calls exit")


def not_json(request: dict[str, Any]) -> dict[str, Any]:
    return {"object": object()}


def garbage(request: dict[str, Any]) -> dict[str, Any]:
    """Writes to every descriptor it finds, as a library with a wrong number does."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(600)
    return {}


def mirror(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays


def double(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    def call(arrays: Arrays) -> Arrays:
        if arrays[0].size == 0:
            raise ValueError("empty batch")
        return tuple(array * 2 for array in arrays)

    return call


def slow(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("grandchild", child.pid)

    def call(arrays: Arrays) -> Arrays:
        time.sleep(600)
        return arrays

    return call


def crash_on_call(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    def call(arrays: Arrays) -> Arrays:
        ctypes.string_at(0)
        return arrays

    return call


def returns_text(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: (np.array(["text"]),)


def own_pid(request: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: (np.array(os.getpid()),)
