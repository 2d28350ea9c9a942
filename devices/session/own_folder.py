"""edgeopt's folder on a device: made, or taken where it is empty, and known again by the mark in it. Nothing else is used.

One from before there was a mark is known by ``device.sh`` in it, whose name is its digest, where it holds nothing of others. A
folder ``tools`` in it is the user's, whoever of both came first, and makes it no less empty.
"""

from pathlib import PurePosixPath

from edgeopt.devices.session.scripts import script
from edgeopt.devices.session.session import failed
from edgeopt.devices.transport import QUICK_S, Transport, text
from edgeopt.errors import BadAnswer, DeviceError

NAME = "edgeopt-device"
"""What the folder is called, also below one that the user names: that may hold other things, and stays as it is."""
MARK = ".edgeopt-device"
"""The file in it that says whose it is, with one fixed line."""
NOT_OWN = 78
"""Exit code of ``own_folder.sh`` and ``device.sh`` for a folder that is there, is not empty and has no mark."""
_UNDIGESTED, _NO_HOME, _NOT_MADE = 69, 72, 73
_ANOTHER = 'name another one in devices.toml: root = "/a/folder/there"'


def own_folder(name: str, transport: Transport, root: str | None, *, make: bool) -> str:
    """The absolute path of edgeopt's folder on a device: below ``root``, or the usual one.

    ``make``: makes and marks it where it is not there or is empty; else nothing is changed, and it need not be there. Raises
    DeviceError for a folder that is not edgeopt's, which stays as it is, and where none can be made.
    """
    command = ("sh", "-c", script("own_folder.sh"), "own_folder.sh", below(root) if root else "", "make" if make else "look")
    answer = transport.run(command, timeout_s=QUICK_S)
    said = text(answer.stdout).strip()
    if answer.exit_code == NOT_OWN:
        raise not_own(name, said)
    if answer.exit_code == _UNDIGESTED:
        raise DeviceError(
            f"{said[-500:]!r} on {name} cannot be known for edgeopt's folder: nothing was changed",
            why=f"it looks like one from before the mark, {MARK}, and no program there computes SHA-256 to make sure",
            fix=f"install sha256sum, shasum, openssl, busybox or python3 there, move that folder away, or {_ANOTHER}",
        )
    if answer.exit_code == _NO_HOME:
        why = f"its home folder, {said!r}, is not there" if said else "HOME is not set there"
        raise DeviceError(f"{name} has no usable home folder, where edgeopt's is", why=why, fix=_ANOTHER)
    if answer.exit_code == _NOT_MADE:
        why = text(answer.stderr).strip()[-500:] or "it does not say why"
        raise DeviceError(f"edgeopt's folder on {name} cannot be used", why=why, fix=f"correct that there, or {_ANOTHER}")
    if answer.exit_code != 0:
        raise failed(name, "make its folder", answer)
    if not said.startswith("/") or not said.isprintable():
        raise BadAnswer(f"{name} gave no folder", why=f"it said {said[:200]!r}", fix="check what its shell prints at login")
    return said


def not_own(name: str, folder: str) -> DeviceError:
    """The error for a folder at edgeopt's place that edgeopt has not made."""
    return DeviceError(
        f"{folder[-500:]!r} on {name} is not edgeopt's folder: nothing was changed",
        why=f"it holds something, and not edgeopt's mark, the file {MARK}",
        fix=f"move what is there away, or {_ANOTHER}",
    )


def below(root: str) -> str:
    """edgeopt's folder below one that the user names, which may be that folder itself."""
    return root if PurePosixPath(root).name == NAME else f"{root.rstrip('/')}/{NAME}"
