"""What the tests of faults over SSH share: servers that know each other's keys, and ways to lose them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.session import device as device_module
from tests.bench.faults import SILENCE_S, Bed
from tests.emulators.sshd import Proxy, Server, sshd


class Way:
    """To a server, through a proxy. See :class:`tests.bench.faults.Lossy`."""

    resumes = True

    def __init__(self, url: str, bytes_per_s: float = 8e6) -> None:
        self._direct, self._bytes_per_s = url, bytes_per_s
        self.mend()

    def mend(self) -> None:
        """A new proxy: another port."""
        place, _, port = self._direct.rpartition(":")
        self.proxy = Proxy(int(port), self._bytes_per_s)
        self.url = f"{place}:{self.proxy.port}"

    @property
    def carried(self) -> int:
        return self.proxy.forwarded

    def cut(self) -> None:
        self.proxy.cut()

    def cut_after(self, count: int) -> None:
        self.proxy.cut_at = self.proxy.forwarded + count

    def silence(self) -> None:
        self.proxy.silence()

    def slow(self, bytes_per_s: float) -> None:
        self.proxy.bytes_per_s = bytes_per_s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd"), "MaxStartups 100", "MaxSessions 100", "PasswordAuthentication no") as found:
        yield found


@pytest.fixture
def bed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    """``localhost`` is not among the known hosts, 127.0.0.1 is, at any port."""
    config = server.client_config(
        tmp_path / "config", "Host 127.0.0.1", "HostKeyAlias known", known=server.known_lines("known")
    )
    monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(config))
    monkeypatch.setattr(device_module, "SILENCE_S", SILENCE_S)
    return Bed(tmp_path)


@pytest.fixture
def liar_url(bed: Bed, server: Server) -> Iterator[str]:
    """Another server with the same keys, whose sessions look for programs in ``lies`` first."""
    folder = bed.folder / "liar"
    path = f"{bed.folder / 'lies'}:/usr/local/bin:/usr/bin:/bin"
    with sshd(folder, f"SetEnv PATH={path} HOME={folder}", f"HostKey {server.host_keys[0]}") as found:
        found.authorized.write_text(server.authorized.read_text())
        yield found.url
