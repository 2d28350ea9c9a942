"""What goes wrong on a device over SSH ends in a clear result for that device, and harms no other."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.fault_contract import Lies, LinkFaults, RunFaults
from tests.bench.faults import Bed, assert_clear, assert_measured
from tests.bench.faults_ssh import Way, bed, liar_url, server
from tests.emulators.sshd import Server, make_key

__all__ = ["bed", "liar_url", "server"]


@pytest.fixture
def lossy(server: Server) -> Iterator[Way]:
    way = Way(server.url)
    yield way
    way.proxy.close()


@pytest.fixture
def healthy_url(server: Server) -> str:
    return server.url


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
