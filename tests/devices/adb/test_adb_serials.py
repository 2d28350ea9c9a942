"""Serials that hold blanks, brackets and what an ADB server's own questions are made of."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from edgeopt.bench.inventory import inventory
from edgeopt.devices.adb.transport import connect
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.errors import Unreachable
from tests.devices.adb.client import Client
from tests.devices.adb.fixtures import *  # noqa: F403
from tests.devices.adb.fixtures import nobody
from tests.emulators.adbd import Adbd


class RenamingServer:
    """An ADB server in front of a real one, which calls the device ``address`` by another name: ``serial``."""

    def __init__(self, port: int, address: str, serial: str) -> None:
        self._real, self._address, self._serial = port, address.encode(), serial.encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._real)) as far, suppress(OSError, ValueError):
            question = self._block(near).replace(self._serial, self._address)
            far.sendall(b"%04x" % len(question) + question)
            if question == b"host:devices-l":
                status = self._exactly(far, 4)
                answer = self._block(far).replace(self._address, self._serial)
                near.sendall(status + b"%04x" % len(answer) + answer)
                return
            back = threading.Thread(target=self._forward, args=(near, far), daemon=True)
            back.start()
            self._forward(far, near)
            back.join()

    def _block(self, link: socket.socket) -> bytes:
        return self._exactly(link, int(self._exactly(link, 4), 16))

    def _exactly(self, link: socket.socket, count: int) -> bytes:
        found = link.recv(count, socket.MSG_WAITALL)
        if len(found) < count:
            raise ValueError("the other side ended")
        return found

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture(params=["adb-XX (2)._adb-tls-connect._tcp", "Mein Gerät [1] (2)", "usb:1-4; reboot", "a/b?c#d%20e"])
def serial(request: pytest.FixtureRequest, client: Client, adbd: Adbd, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device of that serial, behind the ADB server that edgeopt uses."""
    client.attach(adbd.address)
    with closing(RenamingServer(client.port, adbd.address, request.param)) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        yield request.param
    client("disconnect", adbd.address)


def encoded(serial: str) -> str:
    return f"adb://{quote(serial, safe='')}"


def test_a_device_is_reached_by_its_serial_percent_encoded(serial: str) -> None:
    with closing(connect(encoded(serial), nobody)) as found:
        assert found.run(["echo", "here"], timeout_s=20).stdout == b"here\n"
        assert found.url == encoded(serial)


@pytest.mark.parametrize("serial", ["adb-XX (2)._adb-tls-connect._tcp", "adb-R58M (12)._adb-tls-connect._tcp"], indirect=True)
def test_a_name_that_dns_sd_made_of_two_equal_ones_needs_no_encoding(serial: str, tmp_path: Path) -> None:
    with closing(connect(f"adb://{serial}", nobody)) as found:
        assert found.run(["echo", "here"], timeout_s=20).stdout == b"here\n"
    (row,) = inventory([DeviceSpec(name="phone", url=f"adb://{serial}", root=str(tmp_path))], nobody)
    assert row.facts is not None


def test_only_the_very_serial_is_reached(client: Client, adbd: Adbd) -> None:
    client.attach(adbd.address)
    for other in ("adb://adb-XX (2)._adb-tls-connect._tcp", "adb://127.0.0.1%3A1", encoded(f"{adbd.address};x")):
        with pytest.raises(Unreachable, match="knows no device"):
            connect(other, nobody)
    client("disconnect", adbd.address)
