"""The host process: imports the heavy libraries once, then forks one child per task and tells how each one ended.

It has one thread only: a fork copies no other thread, and locks that such a thread holds would stay held for ever in the
child. Where a library has started threads nevertheless, and on systems where forking is not safe (macOS), children are fresh
interpreters. Started by process.py, which also says what goes over the control socket.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from edgeopt.worker.child import CONNECTION_FD, die_with_parent, run_child

BOOTSTRAP = "import sys, json; sys.path[:] = json.loads(sys.argv[2])['path']; from {module} import main; main()"
"""Code of a new interpreter. ``-P`` and the parent's own sys.path: a file in the current folder never shadows a module."""


KILLED = "killed by edgeopt"


def command(module: str, connection: int, settings: dict[str, Any]) -> list[str]:
    """Command line of a new interpreter that runs ``main`` of ``module``; -u, so that a crash loses nothing printed."""
    return [sys.executable, "-P", "-u", "-c", BOOTSTRAP.format(module=module), str(connection), json.dumps(settings)]


class Host:
    """Children by process id, and the control socket to the main process."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self._control = control
        self._settings = settings
        self._children: dict[int, int] = {}
        self._killed: set[int] = set()
        self._received = b""
        self._descriptors: list[int] = []
        self._fork_refused = ""

    def serve(self) -> NoReturn:
        """Imports, then serves until the main process closes the control socket or dies; takes every child along."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        die_with_parent(self._settings["parent"], signal.SIGTERM)
        self._fork_refused = self._settings["fork_refused"] or _preload(self._settings["preload"])
        wake, wake_write = socket.socketpair()
        wake_write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ, self._on_control)
            selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(4096))
            while True:
                for key, _ in selector.select():
                    key.data()
                self._reap()

    def _on_control(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 64)
        if not data:
            self._end()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "start" in message:
                self._start(message["start"])
            else:
                self._kill(message["kill"])

    def _start(self, task: int) -> None:
        connection, log = self._descriptors[:2]
        del self._descriptors[:2]
        try:
            pid = self._spawn(connection, log) if self._fork_refused else self._fork(connection, log)
            self._children[pid] = task
        except OSError as error:
            self._tell({"ended": task, "status": None, "cause": f"no process could be started: {error}"})
        finally:
            os.close(connection)
            os.close(log)

    def _fork(self, connection: int, log: int) -> int:
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            # A child that held another task's socket would hide that one's end from the main process.
            self._control.close()
            for descriptor in self._descriptors:
                os.close(descriptor)
            run_child(socket.socket(fileno=connection), log, host)
        return pid

    def _spawn(self, connection: int, log: int) -> int:
        settings = {
            "path": sys.path,
            "host": os.getpid(),
            "note": f"edgeopt: a fresh interpreter, because {self._fork_refused}",
        }
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, connection, CONNECTION_FD))
        line = command("edgeopt.worker.child", CONNECTION_FD, settings)
        return os.posix_spawn(sys.executable, line, os.environ, file_actions=actions)

    def _kill(self, task: int) -> None:
        for pid in [pid for pid, owner in self._children.items() if owner == task]:
            self._killed.add(task)
            kill_group(pid)
            os.kill(pid, signal.SIGKILL)  # it may not lead its group yet

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                pid, status = ended
                kill_group(pid)  # what the child has started and left running
                task = self._children.pop(pid, None)
                if task is not None:
                    cause = KILLED if task in self._killed else ""
                    self._tell({"ended": task, "status": os.waitstatus_to_exitcode(status), "cause": cause})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        for pid in self._children:
            kill_group(pid)
        os._exit(0)


def kill_group(leader: int) -> None:
    """Kills every process of the group that ``leader`` leads or led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(leader, signal.SIGKILL)


def _preload(entries: list[str]) -> str:
    """Imports each ``module``, calls each ``module:function``; returns why the process must not fork, empty where it may.

    A module that cannot be imported is left to the task that needs it: the error it meets is the one to show.
    """
    for entry in entries:
        module, _, function = entry.partition(":")
        try:
            loaded = import_module(module)
            if function:
                getattr(loaded, function)()
        except BaseException:  # see above; a broken library may raise anything
            traceback.print_exc()
        if (count := _threads()) > 1:
            return f"importing {entry} started {count - 1} threads, and forking would lose them"
    gc.collect()
    gc.freeze()  # the children share these pages as long as their collectors do not touch them
    return ""


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def main() -> NoReturn:
    """Entry of the host process."""
    Host(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])).serve()
