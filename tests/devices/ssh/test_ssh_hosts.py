"""Whether an SSH server is the known one: files of known hosts, and refusals that say what to do."""

import base64
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.errors import HostKeyRefused
from tests.emulators.sshd import Server, make_key, sshd

RSA = "ssh-rsa"
BLOB = base64.b64encode(b"a key").decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Has two keys, as most servers do."""
    with sshd(tmp_path_factory.mktemp("sshd"), host_keys=("ed25519", "ecdsa")) as running:
        yield running


@pytest.fixture
def known_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client's file of known hosts, empty."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config", known="")))
    return tmp_path / "ssh_config.known_hosts"


def lets_in(server: Server) -> bool:
    transport = ssh.connect(server.url)
    works = transport.run(["true"], timeout_s=10).exit_code == 0
    transport.close()
    return works


def refusal(server: Server) -> HostKeyRefused:
    with pytest.raises(HostKeyRefused) as caught:
        ssh.connect(server.url)
    return caught.value


def fingerprint(key: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def do(error: HostKeyRefused, separator: str) -> None:
    """Runs the command that the message gives."""
    subprocess.run(["sh", "-c", error.fix.split(separator)[1]], check=True, capture_output=True)


def test_an_unknown_host_is_refused_with_its_fingerprint_and_the_command_that_accepts_it(
    server: Server, known_file: Path
) -> None:
    error = refusal(server)
    assert "is not known" in error.what
    assert fingerprint(server.host_keys[0]) in error.why
    do(error, "accept it with: ")
    assert known_file.read_text() in server.known_lines()
    assert lets_in(server)


def test_a_changed_key_is_refused_with_both_fingerprints_and_the_command_that_accepts_it(
    server: Server, known_file: Path, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other")
    known_file.write_text(f"[{server.host}]:{server.port} {other.with_suffix('.pub').read_text()}")
    error = refusal(server)
    assert "has changed" in error.what
    assert fingerprint(server.host_keys[0]) in error.why
    assert fingerprint(other) in error.why
    do(error, "only if it is the same: ")
    assert lets_in(server)


@pytest.mark.parametrize("key", [0, 1])
def test_the_known_one_of_several_keys_is_asked_for(server: Server, known_file: Path, key: int) -> None:
    known_file.write_text(server.known_lines().splitlines()[key] + "\n")
    assert lets_in(server)


def test_a_key_of_another_type_than_the_known_one_is_refused_with_the_command_that_accepts_it(
    server: Server, known_file: Path
) -> None:
    known_file.write_text(f"[{server.host}]:{server.port} {RSA} {BLOB}\n")
    error = refusal(server)
    assert "is not known" in error.what or "has changed" in error.what
    subprocess.run(["sh", "-c", error.fix.split(": ", 1)[1]], check=True, capture_output=True)
    assert lets_in(server)


def test_hashed_names_are_found(server: Server, known_file: Path) -> None:
    known_file.write_text(server.known_lines())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known_file)], check=True, capture_output=True)
    assert server.host not in known_file.read_text()
    assert lets_in(server)


def test_a_revoked_key_is_refused_although_it_is_known(server: Server, known_file: Path) -> None:
    known_file.write_text(server.known_lines() + server.known_lines(f"@revoked [{server.host}]:{server.port}"))
    error = refusal(server)
    assert "revoked" in error.what
    assert ">>" not in error.fix


def test_a_certificate_of_a_known_authority_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, folder = make_key(tmp_path / "authority"), tmp_path / "sshd"
    with sshd(folder, f"HostCertificate {folder}/host_ed25519-cert.pub") as server:
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "board", "-h", "-n", server.host, f"{server.host_keys[0]}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        for name, accepted in (("*", True), ("elsewhere", False)):
            known = f"@cert-authority {name} {authority.with_suffix('.pub').read_text()}"
            monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config", known=known)))
            if accepted:
                assert lets_in(server)
            else:
                assert "not known" in refusal(server).what


@pytest.mark.parametrize("setting", ["no", "accept-new"])
def test_a_host_that_the_users_own_configuration_lets_in_is_let_in(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    config = server.client_config(tmp_path / "loose", f"StrictHostKeyChecking {setting}", known="")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    assert lets_in(server)
    assert (tmp_path / "loose.known_hosts").read_text().startswith(f"[{server.host}]:{server.port} ")


def test_a_changed_key_is_refused_although_new_ones_are_accepted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = f"[{server.host}]:{server.port} {other}"
    monkeypatch.setenv(
        CONFIG_VARIABLE, str(server.client_config(tmp_path / "new", "StrictHostKeyChecking accept-new", known=known))
    )
    assert "has changed" in refusal(server).what


def test_with_strict_checking_an_unknown_host_is_refused_with_the_command_that_accepts_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "strict", "StrictHostKeyChecking yes", known="")))
    do(refusal(server), "accept it with: ")
    assert lets_in(server)


def test_a_laboratory_without_a_file_of_known_hosts_works_as_with_ssh(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("UserKnownHostsFile /dev/null", "StrictHostKeyChecking no", "LogLevel ERROR")
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "config", *lines)))
    assert lets_in(server)


def test_where_nothing_is_kept_the_command_that_accepts_a_key_is_the_clients_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.client_config(tmp_path / "config", "UserKnownHostsFile /dev/null")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    assert f"accept it with: ssh -F {config} -l" in refusal(server).fix


def test_a_file_of_known_hosts_may_have_spaces_in_its_name_and_lines_as_windows_writes_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "with space" / "known hosts"
    known.parent.mkdir()
    config = server.client_config(tmp_path / "config", f'UserKnownHostsFile "{known}"', known="")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    do(refusal(server), "accept it with: ")
    assert lets_in(server)
    known.write_bytes(known.read_bytes().replace(b"\n", b"\r\n"))
    assert lets_in(server)


def test_known_hosts_may_come_from_a_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "known").write_text(server.known_lines())
    lines = ("UserKnownHostsFile none", f"KnownHostsCommand /bin/cat {tmp_path / 'known'}")
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "config", *lines)))
    assert lets_in(server)


def test_the_alias_of_a_host_is_its_name_among_the_known_ones(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.client_config(tmp_path / "alias", "HostKeyAlias pi-of-anna", known=server.known_lines("pi-of-anna"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    assert lets_in(server)


def test_the_command_that_accepts_a_key_is_one_shell_line(server: Server, known_file: Path) -> None:
    words = shlex.split(refusal(server).fix.split("accept it with: ")[1])
    assert words[0] == "echo"
    assert words[-2:] == [">>", str(known_file)]
