"""What the pipeline uses: a host that runs named tasks in processes of their own."""

import atexit
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgeopt.errors import UnknownName, WorkerCrashed
from edgeopt.worker.process import HostProcess
from edgeopt.worker.protocol import Array
from edgeopt.worker.running import RunningTask

_STARTS = 2


class WorkerSession:
    """A task that stays and computes arrays from arrays, such as a loaded artifact on its runtime."""

    def __init__(self, task: RunningTask, timeout_s: float) -> None:
        self._task = task
        self._timeout_s = timeout_s

    def call(self, arrays: tuple[Array, ...], *, timeout_s: float | None = None) -> tuple[Array, ...]:
        """What the session's function returns for ``arrays``; any shape, numbers and booleans of any width, copied both ways.

        Raises what the function raised (the session goes on after that), WorkerCrashed or WorkerTimeout (it has ended).
        """
        _, outputs = self._task.ask(None, arrays, timeout_s=timeout_s or self._timeout_s)
        return outputs

    def close(self) -> None:
        """Ends the child."""
        self._task.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class WorkerHost:
    """Runs tasks in processes of their own, several at a time; may be used from any thread.

    ``preload``: modules imported, and each ``module:function`` called, once, in a process beside the caller's, from which
    every task is forked (on Linux: elsewhere, and where an import starts threads, each task is a fresh interpreter). One that
    cannot be imported is left to its task.
    ``tasks``: names to ``module:function``; edgeopt.worker.tasks.TASKS where not given. ``threads``: of torch, per task.
    Where an import crashes the host or hangs for ``start_timeout_s``, tasks become fresh interpreters too: it costs only those
    that need it.
    """

    def __init__(
        self,
        preload: Sequence[str] = (),
        *,
        tasks: Mapping[str, str] | None = None,
        threads: int = 1,
        fork: bool = sys.platform == "linux",
        start_timeout_s: float = 300.0,
    ) -> None:
        self._preload, self._threads, self._start_timeout_s = tuple(preload), threads, start_timeout_s
        self._fork_refused = "" if fork else "forking is turned off"
        self._tasks = tasks
        self._lock = threading.Lock()
        self._process: HostProcess | None = None
        self._closed = False
        self._owner = os.getpid()

    def start(self) -> None:
        """Starts the host process, if none runs, and returns at once: it imports beside the caller's own work."""
        self._host()

    def run(
        self, task: str, request: dict[str, Any], *, timeout_s: float, log: Path, shown_log: Path | None = None
    ) -> dict[str, Any]:
        """What ``f(request)`` returns, in a process of its own; request and result are JSON data.

        ``task`` is a name of the table or ``module:function``. Everything it prints is appended to the file ``log``,
        which messages call ``shown_log``: where a caller moves it to.
        ``timeout_s`` counts from when the task starts.

        Raises the EdgeoptError that the task raised; ConversionError for any other exception; WorkerCrashed where the process
        died, with the cause and its last lines; WorkerTimeout where it was stopped, with all it had started; OutputError
        where ``log`` cannot be written; UnknownName.
        """
        running, answer = self._begin(task, request, session=False, timeout_s=timeout_s, logs=(log, shown_log))
        running.finish()
        result: dict[str, Any] = answer
        return result

    def session(
        self, task: str, request: dict[str, Any], *, timeout_s: float, log: Path, shown_log: Path | None = None
    ) -> WorkerSession:
        """A process in which ``f(request)`` has returned a function of a tuple of arrays; call it through the session.

        ``timeout_s`` holds for the start and, unless given there, for each call. Raises as :meth:`run`.
        """
        running, _ = self._begin(task, request, session=True, timeout_s=timeout_s, logs=(log, shown_log))
        return WorkerSession(running, timeout_s)

    def close(self) -> None:
        """For good: kills every task and the host; returns when all are gone. Tasks in other threads end with WorkerCrashed."""
        if os.getpid() != self._owner:
            return  # a fork of the main process, such as a data loader's: the host is not its own
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            process.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begin(
        self, task: str, request: dict[str, Any], *, session: bool, timeout_s: float, logs: tuple[Path, Path | None]
    ) -> tuple[RunningTask, Any]:
        order = {"function": self._function(task), "request": request, "session": session}
        running = self._start_task(task, *logs)
        try:
            answer, _ = running.ask(order, timeout_s=timeout_s)
        except BaseException:
            running.finish()
            raise
        return running, answer

    def _start_task(self, task: str, log: Path, shown_log: Path | None) -> RunningTask:
        cause = OSError()
        for _ in range(_STARTS):
            try:
                running = RunningTask(self._host(), task, log, shown_log)
                running.wait_started(self._start_timeout_s)
            except OSError as error:
                cause = error  # a host that dies before a task has started takes nothing along: the task gets a new one
            else:
                return running
        raise WorkerCrashed(f"no worker for {task} can be started", why=str(cause)) from cause

    def _host(self) -> HostProcess:
        with self._lock:
            if self._closed:
                raise WorkerCrashed("no worker can be started", why="edgeopt is shutting down")
            if self._process is None or not self._process.alive:
                if self._process is not None:
                    self._process.close()
                    if not self._process.proven:  # perhaps an import crashes: then it must cost those who need it, not all
                        self._fork_refused = f"a worker host ended before its first task: {self._process.death}"
                self._process = HostProcess(preload=self._preload, threads=self._threads, fork_refused=self._fork_refused)
                atexit.register(self.close)
            return self._process

    def _function(self, task: str) -> str:
        if ":" in task:
            return task
        if self._tasks is None:
            from edgeopt.worker.tasks import TASKS

            self._tasks = TASKS
        if task not in self._tasks:
            raise UnknownName(f"no worker task is called {task!r}", fix=f"use one of: {', '.join(sorted(self._tasks))}")
        return self._tasks[task]
