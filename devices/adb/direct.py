"""A direct connection to a device's ADB daemon over TCP: the handshake, with RSA authentication.

CNXN -->            <-- AUTH token
AUTH signature -->  <-- CNXN, or AUTH with another token where that key is unknown
AUTH public key -->     the device asks its user, and says CNXN if they accept
"""

import socket
import time

from edgeopt.devices.adb.keys import Key, own_keys
from edgeopt.devices.adb.link import Link
from edgeopt.devices.adb.packets import (
    AUTH_PUBLIC_KEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    MAX_DATA,
    MAX_OLD_DATA,
    OLD_VERSION,
    VERSION,
    Packet,
    PacketSocket,
)
from edgeopt.devices.adb.states import state_error
from edgeopt.devices.adb.streams import nonsense
from edgeopt.errors import DeviceError, LinkLost, NotAuthorized, Unreachable

CONNECT_S = 10.0
"""Time for the device to answer at all."""
ALLOW_S = 20.0
"""Time for somebody at the device to allow this computer."""
_BANNER = b"host::features=shell_v2,cmd"


class NeedsTls(DeviceError):
    """The device talks TLS (wireless debugging): only an ADB server that was paired with it can connect."""


def connect(host: str, port: int, url: str) -> Link:
    """A connection to the daemon at ``host:port``.

    Raises Unreachable where nobody answers or the device is in no state to run anything, NotAuthorized where it does not
    accept this computer's keys, NeedsTls, BadAnswer where it is no ADB daemon.
    """
    try:
        link = socket.create_connection((host, port), timeout=CONNECT_S)
    except OSError as error:
        raise Unreachable(
            f"no connection to {url}",
            why=str(error),
            fix="check the address, that the device is on and in this network, and that `adb tcpip 5555` was run for it",
        ) from error
    packets = PacketSocket(link, url)
    try:
        banner, maxdata = _greet(packets)
        features = _features(banner, url)
    except (LinkLost, TimeoutError) as error:
        packets.close()
        silence = f"something listens there, but has said nothing for {CONNECT_S:.0f} s"
        raise Unreachable(
            f"{url} does not answer as an ADB daemon",
            why=error.why if isinstance(error, LinkLost) else silence,
            fix="check that the port is the device's ADB port, then restart the device",
        ) from error
    except BaseException:
        packets.close()
        raise
    return Link(packets, maxdata, features)


def _greet(packets: PacketSocket) -> tuple[bytes, int]:
    """The device's banner and how many bytes a packet may have."""
    packets.send(b"CNXN", VERSION, MAX_DATA, _BANNER + b"\0")
    answer = _answer(packets, CONNECT_S)
    if answer.command == b"AUTH":
        answer = _authenticate(packets, answer)
    if answer.command == b"STLS":
        raise NeedsTls(
            f"{packets.url} wants TLS",
            why="wireless debugging lets only paired computers in, by a protocol that the adb program speaks",
            fix="run `adb pair HOST:PAIRING_PORT`, then `adb connect HOST:PORT`, then try again",
        )
    if answer.command != b"CNXN" or answer.arg1 < MAX_OLD_DATA:
        raise nonsense(packets.url, "does not answer as an ADB daemon")
    packets.checksums = min(answer.arg0, VERSION) == OLD_VERSION
    return answer.data, min(answer.arg1, MAX_DATA)


def _authenticate(packets: PacketSocket, answer: Packet) -> Packet:
    tried = own_keys()
    for key in tried:
        if answer.command != b"AUTH" or answer.arg0 != AUTH_TOKEN or len(answer.data) != 20:
            break
        packets.send(b"AUTH", AUTH_SIGNATURE, 0, key.sign(answer.data))
        answer = _answer(packets, CONNECT_S)
    if answer.command != b"AUTH":
        return answer
    packets.send(b"AUTH", AUTH_PUBLIC_KEY, 0, tried[0].public() + b"\0")
    try:
        return _answer(packets, ALLOW_S)
    except TimeoutError:
        raise _not_allowed(packets.url, tried[0]) from None


def _not_allowed(url: str, key: Key) -> NotAuthorized:
    return NotAuthorized(
        f"{url} is in the state 'unauthorized'",
        why=f"nobody has accepted this computer's key there: {key.path}, fingerprint {key.fingerprint()}",
        fix="unlock the device, tick 'Always allow from this computer' in its question and accept, then run again",
    )


def _answer(packets: PacketSocket, timeout_s: float) -> Packet:
    deadline = time.monotonic() + timeout_s

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    return packets.receive(check_time)


def _features(banner: bytes, url: str) -> frozenset[str]:
    """From ``device::ro.product.name=x;...;features=a,b``. Raises where the device is in another state than ``device``."""
    text = banner.rstrip(b"\0").decode("utf-8", "replace")
    state, _, rest = text.partition(":")
    if state != "device":
        raise state_error(url, url.removeprefix("adb://"), state[:40])
    properties = dict(pair.partition("=")[::2] for pair in rest.partition(":")[2].split(";"))
    return frozenset(properties.get("features", "").split(",")) - {""}
