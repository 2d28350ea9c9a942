"""Android devices: ``adb://HOST:PORT`` talks to the device's daemon itself, ``adb://SERIAL`` goes through the ADB server.

A serial may be percent-encoded, and has to be where it holds what a URL cannot.
"""

import re
from collections.abc import Callable, Sequence
from typing import BinaryIO
from urllib.parse import unquote

from edgeopt.devices.adb import commands, sync
from edgeopt.devices.adb.streams import Connection
from edgeopt.devices.drain import Drain
from edgeopt.devices.transport import MAX_OUTPUT_BYTES, Ask, Finished, OnBytes, OnOutput, Transport
from edgeopt.errors import MissingExtra, UsageError
from edgeopt.support.urls import refuse_password

_ADDRESS = re.compile(r"adb://(?P<name>\[[0-9A-Fa-f:.%\w]+\]|[\w.\-]+):(?P<port>\d{1,5})/?")
_LETTER = r"(?:[\w.\-]|%[0-9A-Fa-f]{2})"
# Blanks and brackets as they are: only where DNS-SD made them of two equal names, "adb-XX (2)._adb-tls-connect._tcp".
_SERIAL = re.compile(rf"adb://(?P<name>{_LETTER}+(?:(?: {_LETTER}+)* \(\d+\){_LETTER}*)?)/?")


class AdbTransport:
    """One Android device as a :class:`edgeopt.devices.transport.Transport`. Streams are independent: threads may share it."""

    can_resume = False

    def __init__(self, url: str, connection: Connection) -> None:
        self.url, self._connection = url, connection

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        on_output: OnOutput | None = None,
        limit: int = MAX_OUTPUT_BYTES,
    ) -> Finished:
        """See Transport. Before Android 7 the standard error is part of ``stdout``."""
        drain = Drain(command, timeout_s=timeout_s, limit=limit, on_output=on_output)
        return commands.run(self._connection, self.url, command, drain)

    def send(self, source: BinaryIO, remote: str, *, offset: int = 0, on_bytes: OnBytes | None = None) -> None:
        """See Transport. A file is there in full or not at all, so that there is nothing to resume: ``offset`` is 0."""
        if offset:
            raise ValueError("ADB writes whole files only")
        sync.send(self._connection, self.url, source, remote, on_bytes)

    def fetch(self, remote: str, sink: BinaryIO, *, limit: int) -> None:
        """See Transport."""
        sync.fetch(self._connection, self.url, remote, sink, limit)

    def close(self) -> None:
        """See Transport."""
        self._connection.close()


def connect(url: str, ask: Ask) -> Transport:
    """The device at ``url``. ``ask`` is not used: ADB knows keys only, and its keys have no passphrases.

    A device at an address that wants TLS (wireless debugging) is reached through the ADB server, if that has it already.
    Raises UsageError for another kind of URL, Unreachable or NotAuthorized where the device does not let us in, MissingExtra.
    """
    try:
        opened = _connector(*parse_url(url), url.rstrip("/"))
        return AdbTransport(url.rstrip("/"), opened())
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "ADB devices need packages that are not installed", why=str(error), fix="pip install 'edgeopt[devices]'"
        ) from error


def parse_url(url: str) -> tuple[str, str | None]:
    """Host and port, or a serial and None. Raises UsageError for another kind of URL."""
    refuse_password(url)
    if (address := _ADDRESS.fullmatch(url)) and 0 < int(address["port"]) < 65536:
        return address["name"], address["port"]
    serial = _SERIAL.fullmatch(url)
    try:
        name = unquote(serial["name"], errors="strict") if serial else ""
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name.strip():
        fix = "write adb://HOST:PORT, or adb://SERIAL as `adb devices` shows it, with %20 for a blank and %3A for a colon"
        raise UsageError(f"{url!r} is no ADB device", fix=fix)
    return name, None


def _connector(name: str, port: str | None, url: str) -> Callable[[], Connection]:
    # The libraries are imported only where a device is used.
    if port is None:
        from edgeopt.devices.adb.server import ServerConnection

        return lambda: ServerConnection(name, url)
    from edgeopt.devices.adb import direct as adb_direct
    from edgeopt.devices.adb import server

    def direct() -> Connection:
        try:
            return adb_direct.connect(name.strip("[]"), int(port), url)
        except adb_direct.NeedsTls:
            serial = f"{name}:{port}"
            if server.is_running() and any(device.serial == serial for device in server.listed()):
                return server.ServerConnection(serial, url)
            raise

    return direct
