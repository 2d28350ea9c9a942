"""A device for oneself: files checked on arrival, runs that can always be ended, settings that are put back.

The device's own half is ``device.sh``; its reaper ends a session whose beat has stopped.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.devices.transport import MAX_OUTPUT_BYTES, QUICK_S, Finished, OnBytes, text
from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, DeviceTimeout, LinkLost
from edgeopt.support.files import sha256_of

if TYPE_CHECKING:
    from edgeopt.devices.session.device import Device

BEATS_PER_SILENCE = 5
ROOM_TO_SPARE = 1 << 20
MAX_FILE_BYTES = 1 << 31
LITTLE_BYTES = 64 * 1024
"""A file so small is sent in a few seconds, also over 128 kbit/s."""
MAX_LINE_BYTES = 8 << 20
"""More than half a second of the fastest runs, each with its time."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_NOT_PERMITTED = 77
_PUSH_ATTEMPTS = 2
_DIGEST_BYTES_PER_S = 5e6
"""A slow card on a slow board still reads so fast: the time allowed for checking a file there."""
_FIRST_MISSING = 'for path do [ -e "$path" ] || { printf %s "$path"; exit; }; done'

OnLine = Callable[[str], None]


@dataclass(slots=True)
class Session:
    """What :meth:`edgeopt.devices.session.device.Device.session` gives. What goes on raises LinkLost where the link ends."""

    device: "Device"
    identifier: str
    silence_s: int
    warnings: list[str] = field(default_factory=list)
    """What could not be cleared at the end, for the result to say."""
    _stored: dict[str, None] = field(default_factory=dict)
    """Paths there of what was pushed, in their order."""
    _over: threading.Event = field(default_factory=threading.Event)
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _heart: threading.Thread | None = None

    @property
    def folder(self) -> str:
        """The session's work folder on the device; gone afterwards."""
        return f"{self.device.root}/sessions/{self.identifier}/work"

    def start(self) -> None:
        """Begins to tell the device that somebody is here."""
        self._heart = threading.Thread(target=self._beat, name=f"beat {self.device.name}", daemon=True)
        self._heart.start()

    @property
    def over(self) -> bool:
        """Whether :meth:`end` has been called."""
        return self._over.is_set()

    def end(self) -> None:
        """Clears the device, once; from any thread, which ends what still runs there.

        Where the link is gone the device does it by itself, which ``warnings`` then says.
        """
        with self._ending:
            if not self.over:
                self._over.set()
                self._clear()

    def _clear(self) -> None:
        try:
            answer = self.device.ask("close", self.identifier)
            if kept := text(answer.stdout).strip():
                self.warnings.append(f"{self.device.name}: {kept}")
        except DeviceError as error:
            self.warnings.append(
                f"{self.device.name} clears itself within {2 * self.silence_s} s, since it could not be told: {error.what}"
            )
        if self._heart is not None:
            self._heart.join(timeout=QUICK_S)

    def push(self, source: Path, *, name: str | None = None, executable: bool = False, on_bytes: OnBytes | None = None) -> str:
        """Puts the file ``source`` into the device's store and gives its path there; sends nothing where it already is.

        Stored under its digest, so that names from outside never reach the device. Sent to a temporary name, checked there,
        then renamed; an interrupted push goes on where the transport can. Raises DeviceFull before anything is sent.
        """
        digest = sha256_of(source)
        stored = f"{digest}{_suffix(name or source.name)}"
        size = source.stat().st_size
        patience = QUICK_S + size / _DIGEST_BYTES_PER_S
        for _ in range(_PUSH_ATTEMPTS):
            there, free = self._have(stored, digest, patience)
            if there is None:
                return self._keeps(stored)
            offset = there if self.device.transport.can_resume and there <= size else 0
            if free is not None and free < size - offset + ROOM_TO_SPARE:
                raise self._full(size - offset, free)
            with source.open("rb") as content:
                content.seek(offset)
                self.device.transport.send(content, f"{self.device.root}/store/{stored}.part", offset=offset, on_bytes=on_bytes)
            answer = self.device.ask("keep", stored, digest, "700" if executable else "600", timeout_s=patience)
            said = text(answer.stdout).split()
            if said == ["kept"]:
                return self._keeps(stored)
        raise BadAnswer(
            f"{source.name} arrived damaged on {self.device.name}",
            why=f"its SHA-256 should be {digest}, the device says {' '.join(said)[:100] or text(answer.stderr)[:200]!r}",
            fix="check the cable, the card and the memory of the device",
        )

    def write(self, name: str, content: bytes) -> str:
        """A small file in the session's own folder; its path there."""
        path = f"{self.folder}/{_checked_name(name)}"
        if len(content) <= LITTLE_BYTES:
            self.device.transport.send(BytesIO(content), path)
            return path
        self.device.transport.send(BytesIO(content), f"{path}.part")  # while a .part grows, the session counts as alive
        done = self.device.transport.run(("mv", "-f", f"{path}.part", path), timeout_s=QUICK_S)
        if done.exit_code != 0:
            raise failed(self.device.name, f"rename {name}", done)
        return path

    def read(self, path: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
        """A file that a run has written into the session's folder, or into a folder below it (``out/0.bin``)."""
        sink = BytesIO()
        below = "/".join(map(_checked_name, path.split("/")))
        self.device.transport.fetch(f"{self.folder}/{below}", sink, limit=limit)
        return sink.getvalue()

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_s: float,
        on_line: OnLine | None = None,
        limit: int = MAX_OUTPUT_BYTES,
    ) -> Finished:
        """Runs ``command`` in the session's folder and, whatever happens, leaves no process of it.

        ``on_line`` gets each line of its standard output as it comes. Raises DeviceTimeout after ``timeout_s`` seconds,
        BadAnswer beyond ``limit`` bytes in all or MAX_LINE_BYTES in a line.
        """
        lines = _Lines(on_line) if on_line else None
        whole = ("sh", self.device.script, self.device.root, "run", self.identifier, _checked_name(name), *command)
        try:
            done = self.device.transport.run(whole, timeout_s=timeout_s, on_output=lines.feed if lines else None, limit=limit)
        except LinkLost:
            raise
        except BaseException:  # a timeout, too much output, Ctrl-C: the run must not go on without us
            self._stop(name)
            raise
        if lines:
            lines.finish()
        return done

    def set(self, path: str, value: str) -> bool:
        """Writes a setting such as a governor, to be put back at the end; False where the device does not permit it."""
        answer = self.device.ask("set", self.identifier, path, value)
        if answer.exit_code not in (0, _NOT_PERMITTED):
            raise failed(self.device.name, f"set {path}", answer)
        return answer.exit_code == 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which what the session has there is used. Where it fails because that was removed meanwhile, the error
        says so, instead of what the device made of it."""
        try:
            yield
        except (LinkLost, DeviceTimeout, DeviceFull):
            raise
        except DeviceError as error:
            if missing := self._missing():
                what = f"edgeopt's folder on {self.device.name} went away while it was used"
                fix = "run it again, and see that nothing there removes files meanwhile"
                raise DeviceError(what, why=f"{missing} is not there any more", fix=fix) from error
            raise

    def _missing(self) -> str:
        """The first of what must be there and is not. After the session's end nothing need be."""
        if self.over:
            return ""
        wanted = (self.device.script, self.folder, *self._stored)
        try:
            done = self.device.transport.run(("sh", "-c", _FIRST_MISSING, "sh", *wanted), timeout_s=QUICK_S)
        except DeviceError:
            return ""
        said = text(done.stdout)
        return said if said in wanted and not self.over else ""

    def _keeps(self, stored: str) -> str:
        path = f"{self.device.root}/store/{stored}"
        self._stored[path] = None
        return path

    def _stop(self, name: str) -> None:
        try:
            self.device.ask("stop", self.identifier, name)
        except DeviceError as error:
            self.warnings.append(f"{self.device.name}: a run could not be stopped: {error.what}")

    def _have(self, stored: str, digest: str, patience: float) -> tuple[int | None, int | None]:
        """Bytes that are there of an unfinished push, or None for a whole one; and the room left, where it is known."""
        answer = self.device.ask("have", stored, digest, timeout_s=patience)
        words = text(answer.stdout).split()
        try:
            if answer.exit_code == 0 and words[0] == "present":
                return None, _room(words[1])
            if answer.exit_code == 0 and words[0] == "partial":
                return int(words[1]), _room(words[2])
        except (IndexError, ValueError):
            pass
        raise failed(self.device.name, "look into its store", answer)

    def _full(self, wanted: int, free: int) -> DeviceFull:
        return DeviceFull(
            f"{self.device.name} has no room for {wanted / 1e6:.3g} MB, and {ROOM_TO_SPARE / 1e6:.0f} MB to spare",
            why=f"{free / 1e6:.3g} MB are free at {self.device.root}",
            fix=make_room(self.device.name),
        )

    def _beat(self) -> None:
        count = 0
        path = f"{self.device.root}/sessions/{self.identifier}/beat"
        while not self._over.wait(self.silence_s / BEATS_PER_SILENCE):
            count += 1
            try:
                self.device.transport.send(BytesIO(f"{count}\n".encode()), path)
            except DeviceError:
                continue  # whoever waits for a run is told by the run; a beat may come through again


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line, self._rest = on_line, bytearray()

    def feed(self, piece: bytes) -> None:
        """Looks only at what is new: a line that came in many pieces is not searched again with each of them."""
        first, *others = piece.split(b"\n")
        self._rest += first
        for other in others:
            self._end()
            self._rest += other
        if len(self._rest) > MAX_LINE_BYTES:
            why = f"a line of it is longer than {MAX_LINE_BYTES} bytes"
            raise BadAnswer("the output of a run was cut off", why=why, fix="look at what it prints on the device")

    def finish(self) -> None:
        """Nothing more comes: the last line may have no end."""
        if self._rest:
            self._end()

    def _end(self) -> None:
        line, self._rest = bytes(self._rest), bytearray()
        self._on_line(text(line))


def make_room(device: str) -> str:
    """The next step where a device's disk is full."""
    return f"make room, or clear what earlier runs stored: edgeopt devices clean {device}"


def failed(device: str, action: str, answer: Finished) -> DeviceError:
    """The error for a command that should have worked."""
    why = (text(answer.stderr).strip() or text(answer.stdout).strip())[-500:] or "it said nothing"
    return DeviceError(f"{device} could not {action} (exit code {answer.exit_code})", why=why, fix="try the same by hand there")


def _room(word: str) -> int | None:
    """A device without df(1) does not know."""
    return None if word == "unknown" else int(word)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a plain file name: {name!r}")
    return name


def _suffix(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", suffix) else ""
