"""What is wrong with a file on a device, said alike by every kind of transport."""

import shlex
from collections.abc import Sequence

from edgeopt.errors import BadAnswer, DeviceError, DeviceFull, UsageError

SHOWN_CHARACTERS = 120


def shown(text: str) -> str:
    """``text`` for a message: quoted, with control characters escaped, and cut where it is long."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


def shown_command(command: Sequence[str]) -> str:
    """``command`` for a message; of a script that is sent along, its name and its arguments alone."""
    words = list(command)
    while words[:2] == ["sh", "-c"] and len(words) > 3:
        words = words[3:]
        if words[0] == "sh" and "--" in words:  # with variables of its own
            words = words[words.index("--") + 1 :]
    return shown(shlex.join(words))


def unusable_file(done: str, remote: str, why: str) -> DeviceError:
    """A file on the device cannot be ``done`` (read, written)."""
    fix = "check that the path exists there and that this user may use it"
    return DeviceError(f"the file {shown(remote)} cannot be {done}", why=why, fix=fix)


def no_room(remote: str, why: str) -> DeviceFull:
    """The device's disk is full."""
    fix = "free some room there, or remove old files of edgeopt"
    return DeviceFull(f"the file {shown(remote)} cannot be written", why=why, fix=fix)


def short_file(remote: str, offset: int) -> DeviceError:
    """There is less of a file on the device than its sender goes on from."""
    why = f"it has fewer than {offset} bytes, so that sending cannot go on from there"
    return DeviceError(f"the file {shown(remote)} cannot be written", why=why, fix="send it from its start")


def large_file(remote: str, limit: int) -> BadAnswer:
    """A file on the device has more than the most that is read."""
    why = f"it has more than {limit} bytes, which no honest device needs"
    return BadAnswer(f"the file {shown(remote)} is too large", why=why, fix="look at the file on the device")


def check_name(remote: str) -> None:
    """Raises UsageError for what no file on any device can be called."""
    if "\0" in remote:
        raise UsageError(f"{shown(remote)} is no file's name", why="it holds a NUL character", fix="give another one")
