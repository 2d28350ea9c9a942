"""Android devices: adb:// URLs against an emulated daemon, directly and through a private ADB server."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.adb import connect
from edgeopt.devices.base import Transport
from tests.devices.adbd import Adbd
from tests.devices.contract import TransportContract


def nobody(question: str) -> str:
    raise AssertionError(f"asked {question!r}")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with no keys."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("HOME", "ANDROID_USER_HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def adbd() -> Iterator[Adbd]:
    with Adbd() as emulated:
        yield emulated


class TestDirect(TransportContract):
    @pytest.fixture
    def transport(self, adbd: Adbd) -> Iterator[Transport]:
        found = connect(f"adb://{adbd.address}", nobody)
        yield found
        found.close()
