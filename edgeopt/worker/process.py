"""The main process' side of one host process: starts it, hands it tasks, hears how they end, and takes it down.

Over the control socket, a line of JSON each: ``{"start": number}`` (with two descriptors: the task's socket and its log),
``{"kill": number}``, and back ``{"ended": number, "status": ..., "cause": ...}``.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.support.scratch import PREFIX, Scratch, clear_temporary
from edgeopt.worker.host import command, kill_group

_SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child ended. ``status``: exit code, minus the signal's number, or None where nobody saw it; ``cause``: why."""

    status: int | None
    cause: str


class HostProcess:
    """One host process. All methods may be called from any thread.

    ``fork_refused``: why every task must be a fresh interpreter, empty where it need not. ``proven``: whether a task has
    started in it; ``death``: how it ended, None while it lives.
    """

    def __init__(self, *, preload: Sequence[str], threads: int, fork_refused: str) -> None:
        path = [str(Path(entry).absolute()) for entry in sys.path]
        self._settings = {"preload": list(preload), "fork_refused": fork_refused, "path": path}
        self._scratch = Scratch(clear_temporary(), PREFIX)
        """Where libraries leave what they make, and do not clear where they are killed."""
        self._environment = _environment(threads) | {"TMPDIR": str(self._scratch.path)}
        self._control, self._theirs = socket.socketpair()
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._endings: dict[int, Ending] = {}
        self.death: str | None = None
        self.proven = False
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        # The kernel's death signal is tied to the thread that starts a process, not to the whole parent: this one lives
        # until the host has ended.
        self._thread = threading.Thread(target=self._watch, name="edgeopt-worker-host", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes tasks."""
        return self.death is None and not self._closing

    def submit(self, connection: socket.socket, log: int) -> int:
        """Starts a child on ``connection`` that prints to the descriptor ``log``; its number. Raises OSError where dead."""
        number = next(self._numbers)
        try:
            self._send({"start": number}, [connection.fileno(), log])
        except OSError:
            self._thread.join(_SHUTDOWN_S)  # until its end is known
            raise
        return number

    def kill(self, number: int) -> None:
        """Kills that child and everything in its process group, if it still runs."""
        with contextlib.suppress(OSError):
            self._send({"kill": number}, [])

    def ending(self, number: int, timeout_s: float) -> Ending | None:
        """How that child ended; None where it has not within ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._endings or self.death is not None, timeout_s)
            if number in self._endings:
                return self._endings[number]
            return None if self.death is None else Ending(status=None, cause=self.death)

    def give_up(self, cause: str) -> None:
        """Kills a host in which no task has ever started: an import hangs."""
        if not self.proven and self._process is not None:
            self._die(cause)
            kill_group(self._process.pid)

    def close(self) -> None:
        """Takes down the host and all children, and waits until they are gone. One that has no child yet is not asked first."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._process is not None or self.death is not None)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if self._process is not None and self._thread.is_alive():
            if self.proven:
                self._process.send_signal(signal.SIGTERM)
                self._thread.join(_SHUTDOWN_S)
            if self._thread.is_alive():
                kill_group(self._process.pid)
        self._thread.join()
        self._control.close()
        self._output.close()
        self._scratch.close()

    def _send(self, message: dict[str, int], descriptors: list[int]) -> None:
        with self._sending:
            line = json.dumps(message).encode() + b"\n"
            if descriptors:
                socket.send_fds(self._control, [line], descriptors)
            else:
                self._control.sendall(line)

    def _watch(self) -> None:
        try:
            process = self._launch()
        except OSError as error:
            self._die(f"the worker host cannot be started: {error}")
            return
        try:
            self._listen()
        except OSError:
            pass  # it died with something of ours unread
        except (ValueError, TypeError, KeyError):
            kill_group(process.pid)  # a library in it wrote to the control socket: it cannot be trusted any more
        self._die(self._describe(process.wait()))

    def _listen(self) -> None:
        with self._control.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    self._endings[message["ended"]] = Ending(status=message["status"], cause=message["cause"])
                    self._changed.notify_all()

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._theirs:
            descriptor = self._theirs.fileno()
            process = subprocess.Popen(
                command("edgeopt.worker.host", descriptor, {**self._settings, "parent": os.getpid()}),
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
                pass_fds=[descriptor], start_new_session=True, env=self._environment,
            )  # fmt: skip
        with self._changed:
            self._process = process
            self._changed.notify_all()
        return process

    def _describe(self, code: int) -> str:
        if self._closing:
            return "edgeopt is shutting down"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        size = os.fstat(self._output.fileno()).st_size
        printed = os.pread(self._output.fileno(), 2000, max(0, size - 2000)).decode(errors="replace")
        last = " | ".join(printed.splitlines()[-3:])
        return f"the worker host {how}" + (f"; its last lines: {last}" if last else "")

    def _die(self, cause: str) -> None:
        with self._changed:
            self.death = self.death or cause
            self._changed.notify_all()


def _environment(threads: int) -> dict[str, str]:
    """Environment of the workers, where the user has not set it otherwise.

    OpenBLAS (NumPy) and ONNX Runtime's telemetry, on by default since 1.29, start threads when they are imported, which
    would forbid forking; a fixed hash seed keeps artifacts byte-identical where a library iterates over a set of strings.
    """
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONHASHSEED": "0"}
    return {**wanted, **os.environ}
