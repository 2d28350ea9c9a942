"""What the tests of Android devices share. ``reached`` is the device directly, then behind a private ADB server."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeopt.devices.adb import link, packets
from edgeopt.devices.adb import server as adb_server
from edgeopt.devices.adb.transport import connect
from edgeopt.devices.transport import Transport
from tests.devices.adb.client import Client, private_server
from tests.emulators.adbd import Adbd


def nobody(question: str) -> str:
    """There is nobody to ask, and nobody is to be asked."""
    raise AssertionError(f"asked {question!r}")


def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    """Waits until ``true()`` holds; fails after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with no keys, and an ADB server's port at which none listens."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    for name in ("ANDROID_USER_HOME", "ANDROID_ADB_SERVER_HOST", "ADB_VENDOR_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with private_server(tmp_path_factory.mktemp("server")) as client:
        yield client


@pytest.fixture
def client(server: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The private server, which edgeopt uses too."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
    return server


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def adbd() -> Iterator[Adbd]:
    with Adbd() as emulated:
        yield emulated


@pytest.fixture
def direct(adbd: Adbd) -> Iterator[Transport]:
    with closing(connect(f"adb://{adbd.address}", nobody)) as found:
        yield found


@pytest.fixture
def served(adbd: Adbd, client: Client) -> Iterator[Transport]:
    client.attach(adbd.address)
    url = f"adb://{adbd.address}"
    with closing(adb_server_transport(adbd.address, url)) as found:
        yield found
    client("disconnect", adbd.address)


def adb_server_transport(serial: str, url: str) -> Transport:
    """As for ``adb://SERIAL``; an emulated daemon's serial is an address, which a URL would lead to directly."""
    from edgeopt.devices.adb.transport import AdbTransport

    return AdbTransport(url, adb_server.ServerConnection(serial, url))


@pytest.fixture(params=["direct", "served"])
def reached(request: pytest.FixtureRequest) -> Transport:
    transport: Transport = request.getfixturevalue(request.param)
    return transport


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """A device is dead after a second of silence."""
    for module in (link, packets, adb_server):
        monkeypatch.setattr(module, "DEAD_S", 1.0)
        monkeypatch.setattr(module, "PROBE_S", 0.25, raising=False)
    monkeypatch.setattr(packets, "_TICK_S", 0.1)
    monkeypatch.setattr(link, "_FAST_S", 0.1)
    return 1.0
