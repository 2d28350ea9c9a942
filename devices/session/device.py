"""One device, whatever it is reached by: its private folder, its store of checked files, its sessions."""

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from io import BytesIO

from edgeopt.devices.session.own_folder import NOT_OWN, not_own, own_folder
from edgeopt.devices.session.scripts import script
from edgeopt.devices.session.session import Session, failed
from edgeopt.devices.transport import QUICK_S, Finished, Transport, text
from edgeopt.errors import DeviceBusy, DeviceError

SILENCE_S = 30
"""A session whose computer says nothing for so long is ended by the device itself."""
CLEAN_S = 300.0
_BUSY, _LACKING = 75, 69
"""Exit codes of ``device.sh open``: somebody has the device, or it has not all that is needed."""


@dataclass(slots=True)
class Device:
    """A connected device. Close it, or use it in a ``with`` statement."""

    name: str
    transport: Transport
    root: str
    """Folder on the device that belongs to edgeopt: absolute, private to the device's user."""
    script: str
    """Path there of the device's own half, ``device.sh``."""

    @classmethod
    def connect(cls, name: str, transport: Transport, root: str | None = None, *, make: bool = True) -> "Device":
        """Makes the private folder and puts the device's own half there, where it is not yet.

        ``root``: the folder for ``edgeopt-device``, instead of the usual one (``/data/local/tmp/edgeopt`` on Android, else
        ``~/.cache/edgeopt-device``). ``make=False`` changes nothing there: such a device has no sessions.
        Raises DeviceError where that folder is not edgeopt's own.
        """
        root = own_folder(name, transport, root, make=make)
        device = cls(name, transport, root, f"{root}/device-{hashlib.sha256(_own_half()).hexdigest()[:16]}.sh")
        if make:
            device._install()
        return device

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.transport.close()

    def ask(self, action: str, *arguments: str, timeout_s: float = QUICK_S) -> Finished:
        """Runs an action of ``device.sh``."""
        return self.transport.run(("sh", self.script, self.root, action, *arguments), timeout_s=timeout_s)

    def clean(self) -> None:
        """Removes everything of edgeopt's from the device, and has it until that is done. A folder ``tools`` there is the
        user's: it stays, and then the folder around it does too.

        Raises DeviceBusy while somebody uses it.
        """
        with self.session() as session:
            command = ("sh", self.script, self.root, "clean", session.identifier)
            answer = session.run("clean", command, timeout_s=CLEAN_S)
        if answer.exit_code == NOT_OWN:
            raise not_own(self.name, self.root)
        if answer.exit_code != 0:
            raise failed(self.name, "remove its folder", answer)

    @contextmanager
    def session(
        self, *, wait_s: float = 0.0, on_wait: Callable[[str], None] | None = None, silence_s: int | None = None
    ) -> Iterator[Session]:
        """The device for oneself. What the block leaves there (processes, files, settings) is cleared at its end.

        Waits ``wait_s`` seconds for somebody else's session, whose owner ``on_wait`` is told once; then raises DeviceBusy.
        Where the link is gone, or this process dies, the device clears it all itself after ``silence_s`` seconds (SILENCE_S).
        """
        silence_s = SILENCE_S if silence_s is None else silence_s
        identifier = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._open(identifier, time.monotonic() + wait_s, on_wait, silence_s)
        session = Session(self, identifier, silence_s)
        try:
            session.start()
            yield session
        finally:
            session.end()

    def _install(self) -> bool:
        """Puts the device's own half there; False where it is there already."""
        if self.transport.run(("sh", "-c", '[ -f "$1" ]', "sh", self.script), timeout_s=QUICK_S).exit_code == 0:
            return False
        temporary = f"{self.script}.{secrets.token_hex(4)}"
        own_folder(self.name, self.transport, self.root, make=True)  # it may have been cleaned since
        self.transport.send(BytesIO(_own_half()), temporary)
        move = ("mv", "-f", temporary, self.script)
        _checked(self.name, self.transport.run(move, timeout_s=QUICK_S), "install device.sh")
        return True

    def _open(self, identifier: str, until: float, on_wait: Callable[[str], None] | None, silence_s: int) -> None:
        owner = f"{getuser()}@{socket.gethostname()}, process {os.getpid()}"
        told = False
        while True:
            answer = self.ask("open", identifier, owner, str(silence_s))
            if answer.exit_code == 0:
                return
            if answer.exit_code == _LACKING:
                fix = "install them there (Debian: apt install coreutils util-linux), or busybox, which has all of them"
                raise DeviceError(
                    f"{self.name} lacks programs that edgeopt needs there",
                    why=", ".join(text(answer.stdout).split("\n")[:-1])[:500],
                    fix=fix,
                )
            if answer.exit_code != _BUSY and self._install():
                continue  # somebody has cleaned the device since we connected
            if answer.exit_code != _BUSY:
                raise failed(self.name, "open a session", answer)
            holder = text(answer.stdout).strip() or "somebody"
            if time.monotonic() >= until:
                fix = "wait for it, with --wait for longer; a session whose computer is gone ends by itself within a minute"
                raise DeviceBusy(f"{self.name} is in use", why=f"by {holder}", fix=fix)
            if not told and on_wait is not None:
                on_wait(holder)
                told = True
            time.sleep(1.0)


def _own_half() -> bytes:
    return script("device.sh").encode()


def _checked(device: str, answer: Finished, action: str) -> str:
    if answer.exit_code != 0:
        raise failed(device, action, answer)
    return text(answer.stdout)
