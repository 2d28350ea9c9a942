"""The emulated ARM64 computer over SSH does all that a device must do, and says when its disk is full."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.transport import Transport
from edgeopt.errors import DeviceFull
from tests.devices.contract import FileContract, RunContract, output_of
from tests.emulators.arm64 import Board, arm64, reached_over_ssh, switched_on

__all__ = ["arm64", "reached_over_ssh"]

pytestmark = [pytest.mark.slow, pytest.mark.device]


class TestSshArm64(RunContract, FileContract):
    @pytest.fixture
    def transport(self, reached_over_ssh: Board) -> Iterator[Transport]:
        connected = ssh.connect(reached_over_ssh.url)
        yield connected
        connected.close()

    @pytest.fixture
    def folder(self, transport: Transport) -> Iterator[str]:
        folder = output_of(transport, "mktemp", "-d").decode().strip()
        yield folder
        output_of(transport, "rm", "-rf", folder)


def test_a_push_that_fills_the_disk_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with switched_on(tmp_path, home_bytes=3_000_000) as board:
        monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(board.ssh_config))
        transport = ssh.connect(board.url)
        with pytest.raises(DeviceFull):
            transport.send(io.BytesIO(bytes(10_000_000)), f"{board.home}/file")
        transport.send(io.BytesIO(b"x"), "/tmp/file")
        transport.close()
