"""One task that runs in a child, seen from the main process: ask, wait, and turn every way it can end into an error."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeopt.errors import WorkerCrashed, WorkerTimeout
from edgeopt.support.files import make_folder, writing
from edgeopt.worker import failures
from edgeopt.worker.host import kill_group
from edgeopt.worker.process import Ending, HostProcess
from edgeopt.worker.protocol import Array, Deadline, ProtocolError, encode, receive, send

_END_GRACE_S = 5.0


class RunningTask:
    """A child with its socket. Used by one thread at a time; after an error or :meth:`finish` it is gone."""

    def __init__(self, host: HostProcess, name: str, log: Path, shown: Path | None = None) -> None:
        make_folder(log.parent)
        self._host, self._name = host, name
        self._pid: int | None = None
        self._oom_kills = failures.oom_kills_so_far()
        with writing(log):
            self._log = failures.Log(log, shown)
            output = log.open("ab")
        self._connection, theirs = socket.socketpair()
        try:
            with output, theirs:
                self._number = host.submit(theirs, output.fileno())
        except BaseException:
            self._connection.close()
            raise

    def wait_started(self, timeout_s: float) -> None:
        """Waits until the child runs: the host may still be importing. Raises ConnectionError where the host died or hangs."""
        try:
            body, _ = self._receive(Deadline(timeout_s))
        except WorkerTimeout as error:
            cause = f"the worker host was not ready within {timeout_s:g} s"
            self._host.give_up(cause)
            raise ConnectionError(cause) from error
        except WorkerCrashed as error:
            if not self._host.alive:
                raise ConnectionError(self._host.death) from error
            raise
        self._pid = body["pid"]
        self._host.proven = True

    def ask(self, body: Any, arrays: Sequence[Array] = (), *, timeout_s: float) -> tuple[Any, tuple[Array, ...]]:
        """Sends a message; the answer and its arrays. Raises what the child raised, WorkerCrashed or WorkerTimeout."""
        message, deadline = encode(body, arrays), Deadline(timeout_s)
        try:
            send(self._connection, message, deadline=deadline)
        except TimeoutError as error:
            self.kill()
            raise failures.timed_out(self._name, timeout_s, self._log) from error
        except OSError:
            pass  # it is gone; receiving tells why, and gives the error it may have sent before
        except BaseException:
            self.kill()
            raise
        reply, outputs = self._receive(deadline)
        if "error" in reply:
            raise failures.raised(self._name, reply["error"], self._log)
        return reply["answer"], outputs

    def finish(self) -> None:
        """Lets the child end, and kills it where it does not; returns when it is gone."""
        self._connection.close()
        if self._host.ending(self._number, _END_GRACE_S) is None:
            self.kill()

    def kill(self) -> None:
        """Kills the child with its whole process group; returns when it is gone."""
        self._connection.close()
        self._host.kill(self._number)
        self._host.ending(self._number, _END_GRACE_S)

    def _receive(self, deadline: Deadline) -> tuple[Any, tuple[Array, ...]]:
        try:
            return receive(self._connection, deadline=deadline)
        except TimeoutError as error:
            self.kill()
            raise failures.timed_out(self._name, deadline.seconds, self._log) from error
        except ProtocolError as error:
            self.kill()
            ending = Ending(status=None, cause=f"something in it wrote to edgeopt's connection, and it was stopped: {error}")
            raise failures.crashed(self._name, ending, self._log, None) from error
        except (EOFError, OSError) as error:
            raise self._crash() from error
        except BaseException:
            self.kill()
            raise

    def _crash(self) -> WorkerCrashed:
        ending = self._host.ending(self._number, _END_GRACE_S)
        if ending is None:
            self.kill()
        elif ending.status is None and self._pid is not None:
            kill_group(self._pid)  # the host, which would have done it, is gone
        self._connection.close()
        now = failures.oom_kills_so_far()
        oom_kills = None if now is None or self._oom_kills is None else now - self._oom_kills
        return failures.crashed(self._name, ending, self._log, oom_kills)
