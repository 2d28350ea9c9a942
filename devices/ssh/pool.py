"""The connections to one device: as a rule one, more where the server allows a connection fewer sessions than are wanted."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgeopt.devices.ssh.client import Connection, connect
from edgeopt.devices.ssh.config import HostSettings
from edgeopt.devices.ssh.mux import Ended, MuxSession, Refused
from edgeopt.devices.ssh.questions import Answers
from edgeopt.errors import DeviceError, EdgeoptError

MAX_CONNECTIONS = 10
BUSY_S, BUSY_STEP_S = 1.0, 0.05
"""How long, and how often, a server is asked again that refuses a session though none of ours is open: it may count one that
has just ended for a while yet."""
ENDING_S = 1.0
"""For the client to be gone after it has closed its sockets."""


class Pool:
    """Opened by its constructor; see :func:`ssh_client.connect` for what that raises. For any thread."""

    def __init__(self, settings: HostSettings, answers: Answers) -> None:
        self.settings, self._kept = settings, answers.kept
        self._connections = [connect(settings, answers)]
        self._lock, self._growing = threading.Lock(), threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Ends all of them."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    @contextmanager
    def session(self, command: bytes, streams: Sequence[int], *, subsystem: bool, seconds: float) -> Iterator[MuxSession]:
        """A session, closed afterwards. Raises LinkLost, DeviceError where there is none, TimeoutError after ``seconds``.

        An ``Ended`` or OSError in the block is raised as what it means.
        """
        connection, session = self._open(command, streams, subsystem=subsystem, seconds=seconds)
        try:
            yield session
        except (Ended, EOFError, ConnectionError) as error:
            raise self._broken(connection, str(error)) from error
        finally:
            session.close()
            with self._lock:
                connection.sessions -= 1

    def _open(
        self, command: bytes, streams: Sequence[int], *, subsystem: bool, seconds: float
    ) -> tuple[Connection, MuxSession]:
        start = time.monotonic()
        grown, quiet = 0, _Quiet()
        while True:
            for connection in (living := self._living()):
                left = start + seconds - time.monotonic()
                try:
                    return connection, self._opened(connection, command, streams, subsystem, left)
                except Refused as refused:
                    why = str(refused)
                    quiet.refused(connection)
            idle = quiet.seconds(living)
            refuses = idle is not None and idle > BUSY_S
            if time.monotonic() - start > seconds or (refuses and grown):  # also a new connection is refused its first session
                raise self._refused(why)
            if len(living) < MAX_CONNECTIONS and (refuses or idle is None):
                self._grow(len(living), why)
                grown += 1
            else:
                time.sleep(BUSY_STEP_S)

    def _opened(
        self, connection: Connection, command: bytes, streams: Sequence[int], subsystem: bool, seconds: float
    ) -> MuxSession:
        with self._lock:
            if connection.sessions >= connection.most_sessions:
                raise Refused("its sessions would get in each other's way")
            connection.sessions += 1
        try:
            session = connection.open(command, streams, subsystem=subsystem, seconds=seconds)
        except BaseException as error:
            with self._lock:
                connection.sessions -= 1
            if isinstance(error, Ended):
                raise self._broken(connection, str(error)) from error
            raise
        with self._lock:
            connection.served += 1
        return session

    def _living(self) -> list[Connection]:
        """Raises LinkLost where the first connection has ended; a further one that has is forgotten."""
        with self._lock:
            first, *others = self._connections
            gone = [connection for connection in others if connection.ended]
            self._connections = [first, *(connection for connection in others if connection not in gone)]
            living = list(self._connections)
        for connection in gone:
            connection.close()
        if first.ended:
            raise first.lost()
        return living

    def _grow(self, count: int, why: str) -> None:
        """One connection more than ``count``, without a question: what the user has said once is known.

        One after another: a server turns many that come at once away (MaxStartups).
        """
        with self._growing:
            if len(self._connections) > count:
                return
            try:
                connection = connect(self.settings, Answers(None, self._kept))
            except EdgeoptError as error:
                why = f"{why}; a further connection was refused too: {error.what}: {error.why}"
                raise self._refused(why) from error
            self._add(connection)

    def _add(self, connection: Connection) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._connections.append(connection)
        if closed:
            connection.close()

    def _broken(self, connection: Connection, why: str) -> EdgeoptError:
        if connection.ends_within(ENDING_S):
            return connection.lost()
        return self._refused(why)

    def _refused(self, why: str) -> DeviceError:
        fix = "look at the SSH server's log and settings there (MaxSessions, Subsystem sftp)"
        return DeviceError(f"{self.settings} refused or ended a session", why=why, fix=fix)


class _Quiet:
    """Since when connections refuse a session though none of ours is open, and none of another thread has been meanwhile."""

    def __init__(self) -> None:
        self._since: dict[Connection, tuple[int, float]] = {}

    def refused(self, connection: Connection) -> None:
        if connection.sessions:
            self._since.pop(connection, None)
        elif connection not in self._since or self._since[connection][0] != connection.served:
            self._since[connection] = (connection.served, time.monotonic())

    def seconds(self, living: Sequence[Connection]) -> float | None:
        """For how long the one has done so that does it longest; None where none does."""
        return max((time.monotonic() - since for one, (_, since) in self._since.items() if one in living), default=None)
