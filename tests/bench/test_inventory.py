import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt import registry
from edgeopt.bench.inventory import inventory
from edgeopt.devices import local
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.transport import Ask, Transport

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="devices need a POSIX shell")


def nobody(question: str) -> str:
    raise AssertionError(question)


def here(tmp_path: Path, name: str = "local", **more: str) -> DeviceSpec:
    return DeviceSpec(name=name, url="local", root=str(tmp_path / name), **more)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ssh://nobody@127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(0.0)
        try:
            while True:
                server.accept()[0].close()  # those who still wait for its first word give up now
        except BlockingIOError:
            pass
    for thread in threading.enumerate():
        if thread.name.startswith("ask "):
            thread.join(20)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def asks(url: str, ask: Ask | None) -> Transport:
    """A kind of device that needs a password."""
    assert ask is not None
    ask(f"password for {url}")
    return local.connect("local", ask)


def breaks(url: str, ask: Ask | None) -> Transport:
    """Another package's kind of device, with a fault."""
    raise ZeroDivisionError(url)


def kind(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setitem(registry._DEVICES, scheme, registry.Entry(location=f"tests.bench.test_inventory:{scheme}"))


def test_a_device_says_what_it_is_how_it_is_and_what_it_has(tmp_path: Path) -> None:
    (row,) = inventory([here(tmp_path)], nobody)
    assert row.error == ""
    assert row.facts is not None and row.facts.kind in ("linux", "macos")
    assert row.environment is not None
    assert {"numpy", "onnxruntime"} <= set(row.installed)


def test_rows_come_in_the_order_asked_for_and_one_failure_is_one_row(tmp_path: Path) -> None:
    nowhere = DeviceSpec(name="nowhere", url=f"ssh://nobody@127.0.0.1:{unused_port()}")
    rows = inventory([nowhere, here(tmp_path), DeviceSpec(name="odd", url="gopher://x")], nobody)
    assert [row.spec.name for row in rows] == ["nowhere", "local", "odd"]
    assert [row.facts is None for row in rows] == [True, False, True]
    assert "next step" in rows[0].error
    assert "there is no kind of device 'gopher'" in rows[2].error


def test_a_device_that_says_nothing_is_given_up_after_its_time(tmp_path: Path, silent: str) -> None:
    start = time.monotonic()
    rows = inventory([DeviceSpec(name="mute", url=silent), here(tmp_path)], nobody, timeout=1.5)
    assert time.monotonic() - start < 4
    assert "mute did not answer within" in rows[0].error
    assert rows[1].error == ""


def test_what_was_learned_before_a_failure_is_kept(tmp_path: Path) -> None:
    (row,) = inventory([here(tmp_path, python="/nonexistent/python3")], nobody)
    assert row.facts is not None
    assert "runtimes" in row.error


def test_a_fault_in_another_packages_kind_of_device_is_that_devices_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(monkeypatch, "breaks")
    rows = inventory([DeviceSpec(name="odd", url="breaks://x"), here(tmp_path)], nobody)
    assert "ZeroDivisionError" in rows[0].error
    assert rows[1].error == ""


def test_the_user_is_asked_one_question_at_a_time_and_may_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind(monkeypatch, "asks")
    asked, open_now = [], threading.Lock()

    def slow(question: str) -> str:
        assert open_now.acquire(blocking=False)
        asked.append(question)
        time.sleep(1.2)
        open_now.release()
        return "secret"

    specs = [DeviceSpec(name=name, url=f"asks://{name}", root=str(tmp_path / name)) for name in ("a", "b")]
    rows = inventory(specs, slow, timeout=2.0)
    assert sorted(asked) == ["password for asks://a", "password for asks://b"]
    assert [row.error for row in rows] == ["", ""]


def test_no_thread_is_left(tmp_path: Path) -> None:
    inventory([here(tmp_path)], nobody)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ask ")]
