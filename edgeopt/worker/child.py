"""A child of the worker host: takes one task over its socket, answers, and ends."""

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from edgeopt.errors import EdgeoptError
from edgeopt.worker.protocol import Array, encode, receive, send

CONNECTION_FD = 3
"""The socket's number in a child that is a fresh interpreter."""

RAISED = "edgeopt: the task raised"
"""The line above a traceback in a task's log."""

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_ADJUSTMENT = 300
_GARBAGE_THRESHOLD = 100_000
"""New objects between two garbage collections: a graph is hundreds of thousands of them, and nearly all of them live."""


def die_with_parent(parent: int, signum: int) -> None:
    """Asks the kernel (Linux) to send ``signum`` when the process ``parent``, or rather its thread that made us, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def run_child(connection: socket.socket, log: int, host: int) -> NoReturn:
    """Serves the one task that comes over ``connection`` and ends the process. ``log``: descriptor for all that is printed."""
    try:
        _detach(log, host)
        send(connection, encode({"pid": os.getpid()}))
        order, _ = receive(connection)
        _serve(connection, order)
    except EOFError:
        pass  # the main process has no more questions
    except BaseException:  # goes to the log; the main process sees the connection end
        traceback.print_exc()
    finally:
        # Not sys.exit: libraries that were forked with us must not run their teardown, and threads must not hold us up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> NoReturn:
    """Entry of a child that is a fresh interpreter, where the host cannot fork."""
    settings = json.loads(sys.argv[2])
    print(settings["note"])
    run_child(socket.socket(fileno=CONNECTION_FD), sys.stdout.fileno(), settings["host"])


def resolve(reference: str) -> Callable[[dict[str, Any]], Any]:
    """The function that ``module:function`` names."""
    module, _, name = reference.partition(":")
    function: Callable[[dict[str, Any]], Any] = getattr(import_module(module), name)
    return function


def _detach(log: int, host: int) -> None:
    os.setsid()
    die_with_parent(host, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for standard in (1, 2):
        if standard != log:
            os.dup2(log, standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file=2, all_threads=False)
    gc.set_threshold(_GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    if sys.platform == "linux":
        # Where memory runs out, lose one target rather than the host or the main process.
        with contextlib.suppress(OSError):  # not in every container
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJUSTMENT))


def _serve(connection: socket.socket, order: dict[str, Any]) -> None:
    result: Any = None

    def start() -> list[memoryview]:
        nonlocal result
        result = resolve(order["function"])(order["request"])
        return encode({"answer": None if order["session"] else result})

    done = _reply(connection, start)
    while done and order["session"]:
        _, arrays = receive(connection)
        _reply(connection, partial(_predict, result, arrays))


def _predict(predict: Callable[[tuple[Array, ...]], tuple[Array, ...]], arrays: tuple[Array, ...]) -> list[memoryview]:
    return encode({"answer": None}, predict(arrays))


def _reply(connection: socket.socket, compute: Callable[[], list[memoryview]]) -> bool:
    """Sends the message that ``compute`` returns, or the error it raises; whether it was the former."""
    try:
        message, done = compute(), True
    except BaseException as error:  # whatever a task raises is its answer
        print(RAISED, file=sys.stderr)
        traceback.print_exc()
        message, done = encode({"error": _describe(error)}), False
    send(connection, message)
    return done


def _describe(error: BaseException) -> dict[str, str]:
    if isinstance(error, ModuleNotFoundError):  # a part of an extra may have been uninstalled
        from edgeopt.support.extras import missing_for

        error = missing_for(error) or error
    if isinstance(error, EdgeoptError):
        return {"edgeopt": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
    return {"type": type(error).__name__, "message": str(error)}
