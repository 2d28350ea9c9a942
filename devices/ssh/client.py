"""One connection to an SSH server, held by a process of OpenSSH's own client: a control master without a session of its own."""

import os
import selectors
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from edgeopt.devices.ssh import hosts, mux, said
from edgeopt.devices.ssh.config import HostSettings
from edgeopt.devices.ssh.folder import PrivateFolder
from edgeopt.devices.ssh.questions import Answers, Questions
from edgeopt.errors import EdgeoptError, LinkLost, NotAuthorized

ALIVE_S, ALIVE_COUNT = 5, 4
"""A device from which nothing comes for ALIVE_S seconds is asked whether it is there; asked so often in vain, it is held for
dead, in less than the 30 s of :class:`base.Transport`. Whatever comes from it is a sign of life."""
LOGIN_S = 120.0
"""For all of the way from a server's key to being let in, the user's own time not counted: sshd's LoginGraceTime."""
GRACE_S = 2.0
"""The client's own timeout is to come first: it says more."""
MOST_SESSIONS = 100
"""More than any server allows. Dropbear (2022.83) mixes up sessions that end at the same time: it gets one at a time."""
END_S = 5.0
_STEP_S = 0.01
_LOOK_S = 0.5
_KEPT_LINES, _LINE_BYTES = 400, 2000
# Standard input is a pipe from edgeopt: when that ends, however it does, the client and all it has started end too.
_GUARDED = """\
folder=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
client=$!
(trap '' TERM; read -r gone <&3; kill -s TERM 0; rm -rf -- "$folder"; sleep 1; kill -s KILL 0) >/dev/null 2>&1 &
exec 3<&-
wait $client
"""
# What the user's own configuration may say for sessions by hand, and what would be in the way here.
_OWN_OPTIONS = (
    "ControlMaster=yes", "ControlPersist=no", "RequestTTY=no", "RemoteCommand=none", "PermitLocalCommand=no", "ForwardX11=no",
    "ForwardAgent=no", "ClearAllForwardings=yes", "Tunnel=no",
)  # fmt: skip


class KeyRefused(Exception):
    """The client would not go on with a server's key; ``lines`` is what it said."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        super().__init__()


def connect(settings: HostSettings, answers: Answers) -> "Connection":
    """Raises Unreachable, HostKeyRefused, NotAuthorized, ConfigError, and what the user's ``ask`` raises."""
    try:
        return Connection(settings, answers)
    except KeyRefused as refused:
        folder = PrivateFolder()

        def learn(options: Sequence[str]) -> None:
            with suppress(KeyRefused, EdgeoptError):
                Connection(settings, Answers(None, answers.kept), options).close()

        try:
            raise hosts.refused(settings, refused.lines, folder.path, learn) from refused
        finally:
            folder.close()


class Connection:
    """Opened by its constructor, which raises KeyRefused besides what :func:`connect` does."""

    def __init__(self, settings: HostSettings, answers: Answers, options: Sequence[str] = ()) -> None:
        self.settings = settings
        self.sessions, self.most_sessions, self.served = 0, MOST_SESSIONS, 0
        """How many are open just now, may be, and have been, by the owner's count."""
        self._why = ""
        self._closing = threading.Lock()
        self._closed = False
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._rest = b""
        self._folder = PrivateFolder()
        self._control = self._folder.path / "control"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with Questions(self._folder.path, settings, answers) as questions:
                self._process = self._start(options, questions.environment())
                self._wait_for(questions)
        except BaseException:
            self.close()
            if self._process is not None and self._process.stderr is not None:
                self._process.stderr.close()
            raise
        if said.is_dropbear(self._lines):
            self.most_sessions = 1
        self._listener = threading.Thread(target=self._listen, name=f"ssh {settings}", daemon=True)
        self._listener.start()

    def open(self, command: bytes, streams: Sequence[int], *, subsystem: bool, seconds: float) -> mux.MuxSession:
        """See :func:`ssh_mux.open_session`."""
        return mux.open_session(str(self._control), command, streams, subsystem=subsystem, seconds=seconds)

    def close(self, why: str = "it was closed here") -> None:
        """Ends what waits on the connection; only the first reason counts."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._why = "" if self._process is None or self._process.poll() is not None else why
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)
            self._folder.close()

    @property
    def ended(self) -> bool:
        """Whether nothing more goes over it."""
        return self._closed or (self._process is not None and self._process.poll() is not None)

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself: the client closes its sockets a little before it is gone."""
        until = time.monotonic() + seconds
        while not self.ended and time.monotonic() < until:
            time.sleep(_STEP_S)
        return self.ended

    def lost(self) -> LinkLost:
        """What to raise for an operation that failed since the connection has ended."""
        if not self._why:
            self._listener.join(END_S)  # on a busy computer the client is gone before its last words are read
        why = self._why or said.why_lost(list(self._lines), ALIVE_S * (ALIVE_COUNT + 1))
        fix = "connect again; where it happens often, look at the network and at the device's power supply"
        return LinkLost(f"the connection to {self.settings} ended", why=why, fix=fix)

    def _start(self, options: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        own = [*_OWN_OPTIONS, *self.settings.newer_options, f"ConnectTimeout={max(1, round(self.settings.connect_s))}"]
        own += [f"ServerAliveInterval={ALIVE_S}", f"ServerAliveCountMax={ALIVE_COUNT}"]
        words = [word for option in own for word in ("-o", option)]
        client = self.settings.with_options("-v", "-N", "-T", "-S", str(self._control), *options, *words)
        guarded = ["/bin/sh", "-c", _GUARDED, "sh", str(self._folder.path), *client]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(
            guarded, stdin=pipe, stdout=nothing, stderr=pipe, start_new_session=True, env=environment, bufsize=0
        )
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        return process

    def _wait_for(self, questions: Questions) -> None:
        """Answers the client's questions until it is connected; raises what it means where it ends instead."""
        patience = _Patience(self.settings.connect_s)
        with selectors.DefaultSelector() as ready:
            ready.register(questions.socket, selectors.EVENT_READ)
            ready.register(self._stderr(), selectors.EVENT_READ)
            while not self._control.exists():
                if self.ended:
                    self._take_all()
                    raise self._failure(questions)
                asked = [key for key, _ in ready.select(_STEP_S) if key.fileobj is questions.socket]
                if self._take():
                    patience.heard(self._lines)
                if asked:
                    with patience.of_the_user():
                        questions.answer()
                if questions.nobody:
                    raise said.not_authorized(self.settings, list(self._lines), questions.tried, questions.nobody)
                if why := patience.over():
                    raise said.no_answer(self.settings, why)

    def _failure(self, questions: Questions) -> Exception:
        lines = list(self._lines)
        if said.host_key_failed(lines):
            return KeyRefused([*lines, *questions.about_key.splitlines()])
        failure = said.failure(self.settings, lines, questions.tried)
        return questions.unanswered if questions.unanswered and isinstance(failure, NotAuthorized) else failure

    def _stderr(self) -> IO[bytes]:
        assert self._process is not None and self._process.stderr is not None
        return self._process.stderr

    def _take(self) -> bool:
        """Takes what the client says; whether it said anything, and has not ended."""
        piece = self._stderr().read(64 * 1024)
        *lines, self._rest = (self._rest + (piece or b"")).replace(b"\r", b"").split(b"\n")
        self._lines.extend(line[:_LINE_BYTES].decode(errors="backslashreplace") for line in lines)
        self._rest = self._rest[-_LINE_BYTES:]
        return bool(piece)

    def _take_all(self) -> None:
        while self._take():
            pass
        self._lines.append(self._rest.decode(errors="backslashreplace"))

    def _listen(self) -> None:
        """While connected. Not until the pipe's end: a master of the user's own, to a jump host, may hold that for long."""
        with self._stderr() as stderr, selectors.DefaultSelector() as ready:
            ready.register(stderr, selectors.EVENT_READ)
            while not self.ended:
                if ready.select(_LOOK_S) and not self._take():
                    self.ends_within(END_S)
            self._take_all()
        self.close()


class _Patience:
    """How long the client may take: it is to say something every now and then until a server has shown its key."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._quiet_since = self._start = time.monotonic()
        self._key_shown = False

    def heard(self, lines: Iterable[str]) -> None:
        self._quiet_since = time.monotonic()
        self._key_shown = self._key_shown or said.shown_key(list(lines)) is not None

    @contextmanager
    def of_the_user(self) -> Iterator[None]:
        """What the user takes to answer is nobody's fault."""
        start = time.monotonic()
        yield
        self._quiet_since += time.monotonic() - start
        self._start += time.monotonic() - start

    def over(self) -> str:
        """Why it is at its end, or nothing."""
        now = time.monotonic()
        if now - self._start > LOGIN_S:
            return f"it had let nobody in after {LOGIN_S:g} s"
        if not self._key_shown and now - self._quiet_since > self._connect_s + GRACE_S:
            return f"nothing came from it in {self._connect_s:g} s"
        return ""
