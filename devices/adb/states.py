"""The states a device can be in for ADB, what each means, and what to do about it."""

import re
import shlex
from dataclasses import dataclass, field

from edgeopt.errors import DeviceError, NotAuthorized, Unreachable

_ALLOW = "unlock the device, tick 'Always allow from this computer' in its question and accept, then run again"
_USB_RULES = (
    "on Linux install udev rules (Debian and Ubuntu: the package android-sdk-platform-tools-common), make sure that you are in "
    "the group plugdev, then plug the cable out and in"
)

_STATES: dict[str, tuple[type[DeviceError], str, str]] = {
    "offline": (
        Unreachable,
        "the ADB server knows it, but it does not answer",
        "plug the cable out and in, or run: adb reconnect offline",
    ),
    "unauthorized": (NotAuthorized, "it has not accepted this computer's key", _ALLOW),
    "authorizing": (NotAuthorized, "it is just deciding whether to accept this computer's key", f"wait a moment; {_ALLOW}"),
    "connecting": (Unreachable, "the ADB server is still connecting to it", "run again in a few seconds"),
    "no permissions": (Unreachable, "this user may not open its USB port", _USB_RULES),
    "detached": (Unreachable, "the ADB server has let it go", "attach it again: adb -s SERIAL attach"),
    "recovery": (
        Unreachable,
        "it runs its recovery system, not Android",
        "start it normally: adb -s SERIAL reboot",
    ),
    "rescue": (Unreachable, "it runs its rescue system, not Android", "start it normally: adb -s SERIAL reboot"),
    "sideload": (
        Unreachable,
        "it waits for a system image",
        "finish or cancel that, then start it normally",
    ),
    "bootloader": (Unreachable, "it is in its bootloader", "start it normally: fastboot -s SERIAL reboot"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of ``adb devices -l``. ``properties``: usb, product, model, device, transport_id, where known."""

    serial: str
    state: str
    properties: dict[str, str] = field(default_factory=dict)


_USABLE = ("device", "host")
_LINE = re.compile(
    r"(?P<serial>\(no serial number\)|[^\s*](?:.*?\S)??)[ \t]+"
    r"(?P<state>no permissions(?: \([^()]*\))?(?:; see \[[^\]\s]*\])?|[a-z]+)"
    r"(?P<properties>(?:[ \t]+[a-z_]+:\S*)*)[ \t]*"
)


def parse_devices(text: str) -> list[Listed]:
    """The devices in what ``adb devices -l`` (or the server's ``host:devices-l``) says; every other line is passed over."""
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip("\r"))
        if match and _is_device(match):
            pairs = (pair.partition(":") for pair in match["properties"].split())
            state = "no permissions" if match["state"].startswith("no permissions") else match["state"]
            found.append(Listed(match["serial"], state, {key: value for key, _, value in pairs}))
    return found


def _is_device(line: re.Match[str]) -> bool:
    """Rather than words of adb's: "List of devices attached", "adb server is out of date". A serial may hold blanks."""
    known = line["state"] in _STATES or line["state"] in _USABLE or line["state"].startswith("no permissions")
    return known or (len(line["serial"].split()) == 1 and line["serial"] != "adb")


def state_error(url: str, serial: str, state: str) -> DeviceError:
    """Why the device in ``state`` (any but ``device``) cannot be used, and what to do."""
    kind, why, fix = _STATES.get(state, (Unreachable, "edgeopt does not know this state", "restart the device, then run again"))
    return kind(f"{url} is in the state {state!r}", why=why, fix=fix.replace("SERIAL", shlex.quote(serial)))
