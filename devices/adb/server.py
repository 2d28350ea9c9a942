"""Devices behind the ADB server that runs on this computer (USB phones, paired wireless debugging), by adbutils.

The server is never started or stopped here: other programs share it.
"""

import os
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeopt.devices.adb.states import Listed, parse_devices, state_error
from edgeopt.devices.adb.streams import DEAD_S, FAST_S, FIRST_BLOCK, LEAST_BLOCK, PROBE, PROBE_S, SLOW_S, lost
from edgeopt.errors import DeviceError, LinkLost, Unreachable, did_you_mean

if TYPE_CHECKING:
    from adbutils import AdbConnection

_ASK_S = 10.0
_BLOCK, _WINDOW = 512 * 1024, 4 * 1024 * 1024
"""The most that is handed over at once, and that is under way: each question costs some 20 ms."""
_MAX_SERVICE = 0xFFFF
"""The server's protocol gives a length in four hexadecimal digits."""


def listed() -> list[Listed]:
    """The devices that the running server knows, in whatever state. Raises Unreachable where no server runs."""
    return parse_devices(_ask("host:devices-l"))


def is_running() -> bool:
    """Whether an ADB server answers on this computer."""
    with suppress(OSError), socket.create_connection(_address(), timeout=1.0):
        return True
    return False


class ServerConnection:
    """The device ``serial``. Raises Unreachable or NotAuthorized where it is in no state to run anything."""

    def __init__(self, serial: str, url: str) -> None:
        self.url, self._serial, self._closed = url, serial, False
        self._open: set[SocketStream] = set()
        known = {device.serial: device.state for device in listed()}
        if serial not in known:
            hint = did_you_mean(serial, known) or f"it knows: {', '.join(known) or 'none'}"
            raise Unreachable(
                f"the ADB server knows no device {serial}", why=hint, fix="attach the device, and look at: adb devices -l"
            )
        if known[serial] != "device":
            raise state_error(url, serial, known[serial])
        self.features = frozenset(_ask(f"host-serial:{serial}:features").split(",")) - {""}

    def open(self, service: str) -> "SocketStream":
        """See :class:`edgeopt.devices.adb.streams.Connection`."""
        if self._closed:
            raise lost(self.url, "it was closed here")
        stream = SocketStream(self, _service(self._serial, service, self.url, DEAD_S))
        self._open.add(stream)
        if self._closed:  # by another thread, just now
            stream.close()
            raise lost(self.url, "it was closed here")
        return stream

    def close(self) -> None:
        """See :class:`edgeopt.devices.adb.streams.Connection`."""
        self._closed = True
        for stream in list(self._open):
            stream.cut()

    def closed(self, stream: "SocketStream") -> None:
        """``stream`` is no more."""
        self._open.discard(stream)

    def check_alive(self, timeout_s: float) -> None:
        """Asks the device over a connection of its own. Raises LinkLost where it says nothing for ``timeout_s``."""
        try:
            _service(self._serial, PROBE, self.url, timeout_s).close()
        except LinkLost:
            raise
        except DeviceError:
            pass  # it says that it has no such service: it is alive


class SocketStream:
    """A stream as the server gives it: a socket that only this service's bytes go through.

    The server takes whatever it is given and passes it on as one packet of up to a megabyte, behind which everything else
    waits, questions whether the device is there included. So no more is under way than a window: then the device is asked,
    whose answer comes behind it.
    """

    def __init__(self, connection: ServerConnection, link: "AdbConnection") -> None:
        self._connection, self._link, self._socket, self._cut = connection, link, link.conn, False
        self._socket.setblocking(False)
        self._under_way, self._window = 0, FIRST_BLOCK

    @property
    def block(self) -> int:
        """See Stream."""
        return min(self._window, _BLOCK)

    def read(self, timeout_s: float) -> bytes:
        """See Stream."""
        deadline = time.monotonic() + timeout_s
        self._wait(select.POLLIN, deadline)
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise lost(self._connection.url, str(error)) from error
        if self._cut:
            raise lost(self._connection.url, "it was closed here")
        return bytes(data)

    def write(self, data: bytes) -> None:
        """See Stream."""
        view = memoryview(data)
        if self._under_way and self._under_way + len(view) > self._window:
            self._catch_up()
        self._under_way += len(view)
        while view:
            self._wait(select.POLLOUT, float("inf"))
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                if self._cut:
                    raise lost(self._connection.url, "it was closed here") from None
                return  # the device has closed the stream; what it said before can still be read
            except OSError as error:
                raise lost(self._connection.url, str(error)) from error

    def _catch_up(self) -> None:
        """Waits until the device has what it was sent; the window grows while it is fast."""
        start = time.monotonic()
        self._connection.check_alive(DEAD_S)
        took = time.monotonic() - start
        if took < FAST_S:
            self._window = min(self._window * 2, _WINDOW)
        elif took > SLOW_S:
            self._window = max(self._window // 4, LEAST_BLOCK)
        self._under_way = 0

    def pending(self) -> bool:
        """See Stream."""
        return self._ready(select.POLLIN, 0)

    def close(self) -> None:
        """See Stream."""
        self._connection.closed(self)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def cut(self) -> None:
        """Wakes the thread that uses the stream, with LinkLost; that thread closes it."""
        self._cut = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int, deadline: float) -> None:
        quiet = time.monotonic()
        while not self._ready(event, min(PROBE_S, max(0.0, deadline - time.monotonic()))):
            if self._cut:
                raise lost(self._connection.url, "it was closed here")
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if now - quiet >= PROBE_S - 0.1 and deadline - now > DEAD_S - PROBE_S:
                self._connection.check_alive(DEAD_S - PROBE_S)
                quiet = time.monotonic()

    def _ready(self, event: int, timeout_s: float) -> bool:
        poll = select.poll()
        try:
            poll.register(self._socket, event)
        except ValueError as error:  # closed by another thread
            raise lost(self._connection.url, "it was closed here") from error
        return bool(poll.poll(timeout_s * 1000))


def _address() -> tuple[str, int]:
    # The variables that adb and adbutils read.
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    return os.environ.get("ANDROID_ADB_SERVER_HOST", "127.0.0.1"), int(port) if port.isdecimal() else 5037


def _connect(timeout_s: float) -> "AdbConnection":
    import adbutils

    if not is_running():  # adbutils would start one, with its output on ours and our open files in its hands
        raise Unreachable(
            f"no ADB server runs on {':'.join(map(str, _address()))}",
            why="devices on USB are reached through it",
            fix="run: adb start-server (or give the device's address: adb://HOST:PORT)",
        )
    return adbutils.AdbClient(*_address()).make_connection(timeout=timeout_s)


def _service(serial: str, service: str, url: str, timeout_s: float) -> "AdbConnection":
    """A connection whose other end is the device's ``service``. Raises DeviceError where it refuses, LinkLost."""
    from adbutils.errors import AdbError

    link = _connect(timeout_s)
    try:
        for question in (f"host:transport:{serial}", service):
            _say(link, question)
            link.check_okay()
    except (AdbError, OSError, ValueError) as error:
        link.close()
        # The server says "closed" when the device refuses a service, and also when it loses the device just then.
        if str(error) == "closed" and _state(serial) == "device":
            kind = service.partition(":")[0]
            raise DeviceError(f"{url} has no service {kind!r}", why="it refused it", fix="use Android 5 or later") from error
        raise lost(url, str(error) or "it does not answer") from error
    except DeviceError:
        link.close()
        raise
    return link


def _state(serial: str) -> str:
    return next((device.state for device in listed() if device.serial == serial), "gone")


def _ask(question: str) -> str:
    from adbutils.errors import AdbError

    link = _connect(_ASK_S)
    try:
        _say(link, question)
        link.check_okay()
        return str(link.read_string_block())
    except (AdbError, OSError, ValueError) as error:
        raise Unreachable(
            f"the ADB server does not answer to {question.rpartition(':')[2]}",
            why=str(error),
            fix="look at: adb devices -l",
        ) from error
    finally:
        link.close()


def _say(link: "AdbConnection", text: str) -> None:
    # Not adbutils' send_command: it does not notice that a socket takes only a part, nor that a length has five digits.
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > _MAX_SERVICE:
        raise DeviceError(
            f"a command is {len(data):,} bytes long",
            why=f"the ADB server takes at most {_MAX_SERVICE:,}",
            fix="use shorter names or fewer arguments",
        )
    link.conn.sendall(b"%04x" % len(data) + data)
