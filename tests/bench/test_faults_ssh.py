"""What goes wrong on a device over SSH ends in a clear result for that device, and harms no other."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices import device as device_module
from tests.bench.fault_contract import Lies, LinkFaults, RunFaults
from tests.bench.faults import SILENCE_S, Bed, assert_clear, assert_measured
from tests.devices.sshd import Proxy, Server, make_key, sshd


class Way:
    """To a server, through a proxy. See :class:`tests.bench.faults.Lossy`."""

    resumes = True

    def __init__(self, server: Server, bytes_per_s: float = 8e6) -> None:
        self._server, self._bytes_per_s = server, bytes_per_s
        self.proxy = Proxy(server.port, bytes_per_s)
        self.url = server.url.replace(str(server.port), str(self.proxy.port))

    @property
    def carried(self) -> int:
        return self.proxy.forwarded

    def cut(self) -> None:
        self.proxy.cut()

    def cut_after(self, count: int) -> None:
        self.proxy.cut_at = self.proxy.forwarded + count

    def silence(self) -> None:
        self.proxy.silence()

    def mend(self) -> None:
        self.proxy.close()
        self.__init__(self._server)  # type: ignore[misc]  # all of it anew

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
def lossy(server: Server) -> Iterator[Way]:
    way = Way(server)
    yield way
    way.proxy.close()


@pytest.fixture
def healthy_url(server: Server) -> str:
    return server.url


@pytest.fixture
def liar_url(bed: Bed, server: Server) -> Iterator[str]:
    """Another server with the same keys, whose sessions look for programs in ``lies`` first."""
    folder = bed.folder / "liar"
    path = f"{bed.folder / 'lies'}:/usr/local/bin:/usr/bin:/bin"
    with sshd(folder, f"SetEnv PATH={path} HOME={folder}", f"HostKey {server.host_keys[0]}") as found:
        found.authorized.write_text(server.authorized.read_text())
        yield found.url


class TestLink(LinkFaults):
    """Over SSH."""


class TestRun(RunFaults):
    """Over SSH."""


class TestLies(Lies):
    """Over SSH."""


def test_a_server_that_is_not_known_is_refused(bed: Bed, server: Server) -> None:
    strange = bed.device("strange", server.url.replace("127.0.0.1", "localhost"))
    refused, fine = bed.bench(strange, bed.device("healthy", server.url))
    assert_measured(fine)
    assert refused.error == "HostKeyRefused"
    assert_clear(refused.error, refused.reason, "SHA256:")
    assert not bed.root("strange").exists()


def test_a_key_that_is_not_authorised_is_told(bed: Bed, server: Server) -> None:
    config = Path(os.environ["EDGEOPT_SSH_CONFIG"])
    other = make_key(bed.folder / "other")
    config.write_text(
        f"Host localhost\nHostKeyAlias known\nIdentityFile {other}\nHost 127.0.0.1\nIdentityFile {server.key}\n"
        + config.read_text().replace(f"IdentityFile {server.key}", "")
    )
    stranger = bed.device("stranger", server.url.replace("127.0.0.1", "localhost"))
    refused, fine = bed.bench(stranger, bed.device("healthy", server.url))
    assert_measured(fine)
    assert refused.error == "NotAuthorized"
    assert_clear(refused.error, refused.reason)
