"""Worker hosts that the exports of one test process share: importing what conversions need takes seconds, each time.

Every task still runs in a child of its own, forked from a host that has imported everything and run nothing. What a host
gets when it starts is given to the child instead: the current folder and the environment. A host whose Python would be
another one (its paths, threads, libraries put before others) is not shared but the caller's own, as in the product.

Artifacts are timed for a moment only, with as many runs as it takes to have a median: no test compares these times.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from edgeopt import registry
from edgeopt.pipeline import tasks
from edgeopt.pipeline.hosts import PRELOAD, preload
from edgeopt.worker import client
from edgeopt.worker.child import resolve
from edgeopt.worker.host import KILLED
from edgeopt.worker.process import Ending, HostProcess
from edgeopt.worker.running import RunningTask

LIGHT = ("edgeopt.pipeline.tasks",)
AT_THE_START = ("LD_", "OMP_", "MKL_", "OPENBLAS_", "ORT_", "PYTHON", "TORCH", "CUDA_", "TF_", "TMP", "TEMP")
"""What the variables begin with that count when a library is imported, or sooner."""
TIMING_SECONDS = 0.02

Key = tuple[Any, ...]


@cache
def everything() -> tuple[str, ...]:
    """What workers of all formats import."""
    return preload(registry.formats())


def placed(order: dict[str, Any]) -> Any:
    """Runs in the child: the task, where and with what its caller's own host would have started."""
    os.chdir(order["folder"])
    wanted = order["environment"]
    for name in [name for name in os.environ if name not in wanted and not name.startswith(AT_THE_START)]:
        del os.environ[name]
    os.environ.update({name: value for name, value in wanted.items() if not name.startswith(AT_THE_START)})
    tasks.TIMING_SECONDS = TIMING_SECONDS
    return resolve(order["function"])(order["request"])


class LentHost:
    """A shared host in the hands of one caller: closing it ends the caller's own tasks and gives it back."""

    def __init__(self, shared: HostProcess, idle: list[HostProcess]) -> None:
        self._shared, self._idle = shared, idle
        self._numbers: list[int] = []
        self._closed = False

    @property
    def alive(self) -> bool:
        return not self._closed and self._shared.alive

    @property
    def death(self) -> str | None:
        return "edgeopt is shutting down" if self._closed else self._shared.death

    @property
    def proven(self) -> bool:
        return self._shared.proven

    @proven.setter
    def proven(self, value: bool) -> None:
        self._shared.proven = value

    def submit(self, connection: Any, log: int) -> int:
        if self._closed:
            raise BrokenPipeError("edgeopt is shutting down")
        self._numbers.append(self._shared.submit(connection, log))
        return self._numbers[-1]

    def kill(self, number: int) -> None:
        self._shared.kill(number)

    def ending(self, number: int, timeout_s: float) -> Ending | None:
        found = self._shared.ending(number, timeout_s)
        return Ending(status=None, cause=self.death or "") if self._closed and found and found.cause == KILLED else found

    def give_up(self, cause: str) -> None:
        self._shared.give_up(cause)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        running = [number for number in self._numbers if self._shared.ending(number, 0) is None]
        for number in running:
            self._shared.kill(number)
        if self._shared.alive and all(self._shared.ending(number, 5) for number in running):
            self._idle.append(self._shared)
        else:
            self._shared.close()


class PlacedTask(RunningTask):
    """A task whose child may come from a shared host."""

    def ask(self, body: Any, arrays: Any = (), *, timeout_s: float) -> tuple[Any, tuple[Any, ...]]:
        if isinstance(self._host, LentHost) and isinstance(body, dict) and "function" in body:
            order = body | {"folder": str(Path.cwd()), "environment": dict(os.environ)}
            body = body | {"function": f"{__name__}:placed", "request": order}
        return super().ask(body, arrays, timeout_s=timeout_s)


class SharedHosts:
    """Those that wait for their next caller, by what makes them different."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[HostProcess]] = {}

    def lend(self, *, preload: tuple[str, ...], threads: int, fork_refused: str) -> Any:
        """In the place of HostProcess(...)."""
        if fork_refused or not (preload == LIGHT or set(PRELOAD) <= set(preload) <= set(everything())):
            return HostProcess(preload=preload, threads=threads, fork_refused=fork_refused)
        kept = LIGHT if preload == LIGHT else everything()
        variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(AT_THE_START))
        key = (kept, threads, tuple(sys.path), tuple(variables))
        idle = self._idle.setdefault(key, [])
        while idle:
            if (host := idle.pop()).alive:
                return LentHost(host, idle)
            host.close()
        return LentHost(HostProcess(preload=kept, threads=threads, fork_refused=""), idle)

    def close(self) -> None:
        for idle in self._idle.values():
            for host in idle:
                host.close()


@contextmanager
def shared_hosts() -> Iterator[SharedHosts]:
    """While the block runs, exports of this process take their hosts from here."""
    hosts = SharedHosts()
    with patch.object(client, "HostProcess", hosts.lend), patch.object(client, "RunningTask", PlacedTask):
        try:
            yield hosts
        finally:
            hosts.close()
