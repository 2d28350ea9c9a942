"""Sessions over links so slow that what is being sent holds up every sign of life."""

import getpass
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from edgeopt.devices.adb.transport import connect as connect_adb
from edgeopt.devices.session.device import Device
from edgeopt.devices.ssh.transport import connect as connect_ssh
from edgeopt.devices.transport import Transport
from tests.devices.adb.client import private_server
from tests.devices.adb.fixtures import home, nobody  # noqa: F401  the fixture
from tests.emulators.adbd import Adbd
from tests.emulators.sshd import HOST, Proxy, sshd

BYTES_PER_S = 32_000
"""SFTP writes up to 255 KiB at once: so much must come through within the silence that a session outlives."""
SILENCE_S = 15
BYTES = 30 * BYTES_PER_S


@pytest.fixture(params=["ssh", "adb", "adb server"])
def slow(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """A connection that is slow from its first byte of content on."""
    if request.param != "ssh":
        with Adbd() as adbd, ExitStack() as stack:
            if request.param == "adb":
                transport = connect_adb(f"adb://{adbd.address}", nobody)
            else:
                client = stack.enter_context(private_server(tmp_path))
                monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(client.port))
                client.attach(adbd.address)
                transport = connect_adb(f"adb://{quote(adbd.address)}", nobody)
            adbd.faults.bytes_per_second = BYTES_PER_S
            yield transport
            adbd.faults.bytes_per_second = None
            transport.close()
        return
    with sshd(tmp_path / "sshd") as server:
        proxy = Proxy(server.port)
        known = server.known_lines(f"[{HOST}]:{proxy.port}")
        monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(server.client_config(tmp_path / "config", known=known)))
        transport = connect_ssh(f"ssh://{getpass.getuser()}@{HOST}:{proxy.port}", nobody)
        proxy.bytes_per_s = BYTES_PER_S
        yield transport
        proxy.bytes_per_s = float("inf")
        transport.close()
        proxy.close()


@pytest.mark.slow
def test_what_is_being_sent_keeps_the_session_alive(slow: Transport, tmp_path: Path) -> None:
    device = Device.connect("slow", slow, root=str(tmp_path / "root"))
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(BYTES))
    with device.session(silence_s=SILENCE_S) as session:
        stored = session.push(source)
        assert Path(device.root, "sessions", session.identifier).is_dir(), "the device took us for dead"
        inputs = session.write("input-0.bin", source.read_bytes()[: BYTES // 2])
        assert Path(inputs).stat().st_size == BYTES // 2
        assert session.run("one", ["true"], timeout_s=20).exit_code == 0
    assert Path(stored).read_bytes() == source.read_bytes()
    assert session.warnings == []
