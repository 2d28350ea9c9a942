"""Whether an SSH server is the known one: files of known hosts, and refusals that say what to do."""

import base64
import hmac
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices import ssh
from edgeopt.devices.ssh_config import CONFIG_VARIABLE
from edgeopt.devices.ssh_hosts import known_keys, wanted_types
from edgeopt.errors import HostKeyRefused
from tests.devices.sshd import Server, make_key, sshd

ED25519, RSA = "ssh-ed25519", "ssh-rsa"
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


def test_a_known_key_of_a_type_that_the_server_has_no_more_is_named(server: Server, known_file: Path) -> None:
    known_file.write_text(f"[{server.host}]:{server.port} {RSA} {BLOB}\n")
    assert "another type for it (ssh-rsa)" in refusal(server).why


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


def test_a_known_certificate_authority_is_said_to_be_of_no_use(server: Server, known_file: Path) -> None:
    known_file.write_text(server.known_lines("@cert-authority *"))
    assert "host certificates" in refusal(server).why


def test_strict_host_key_checking_cannot_be_switched_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.client_config(tmp_path / "loose", "StrictHostKeyChecking no", known="")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    refusal(server)


def test_the_alias_of_a_host_is_its_name_among_the_known_ones(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.client_config(tmp_path / "alias", "HostKeyAlias pi-of-anna", known=server.known_lines("pi-of-anna"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    assert lets_in(server)


PATTERNS = [
    ("pi", "pi", True),
    ("PI", "pi", True),
    ("pi*", "pi5", True),
    ("p?", "pi", True),
    ("p?", "pi5", False),
    ("a,pi,b", "pi", True),
    ("*,!pi", "pi", False),
    ("*,!pi", "jetson", True),
    ("[pi]:2222", "[pi]:2222", True),
    ("[pi]:2222", "pi", False),
    ("[pi]", "p", False),
    ("pi.home", "pixhome", False),
    ("|1|bad", "pi", False),
    ("|1|c2FsdA==|c2FsdA==", "pi", False),
]


@pytest.mark.parametrize(("pattern", "name", "found"), PATTERNS)
def test_patterns_of_names_mean_what_openssh_says(tmp_path: Path, pattern: str, name: str, found: bool) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"{pattern} {ED25519} {BLOB} a comment\n")
    assert bool(known_keys(name, [file])) is found


def test_lines_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    lines = [
        "",
        "# a comment",
        "pi",
        "pi ssh-ed25519",
        "pi ssh-ed25519 not*base64",
        "@marker",
        "\x00\xff",
        f"pi {ED25519} {BLOB}",
    ]
    file.write_bytes("\n".join(lines).encode("latin-1"))
    assert [key.blob for key in known_keys("pi", [file, tmp_path / "missing"])] == [b"a key"]


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_no_file_of_known_hosts_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any_known_hosts"
    file.write_text(text, encoding="utf-8")
    known_keys("pi", [file])


@given(name=st.from_regex(r"[a-z0-9.]{1,30}", fullmatch=True), salt=st.binary(min_size=20, max_size=20))
def test_a_hashed_name_matches_itself_alone(tmp_path_factory: pytest.TempPathFactory, name: str, salt: bytes) -> None:
    digest = hmac.digest(salt, name.encode(), "sha1")
    file = tmp_path_factory.getbasetemp() / "hashed_known_hosts"
    file.write_text(f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()} {ED25519} {BLOB}\n")
    assert known_keys(name, [file])
    assert not known_keys(f"{name}x", [file])


def test_rsa_keys_are_asked_for_with_signatures_that_are_not_sha1(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"pi {RSA} {BLOB}\n")
    offered = [ED25519, "rsa-sha2-512", "rsa-sha2-256"]
    assert wanted_types(known_keys("pi", [file]), offered) == ["rsa-sha2-512", "rsa-sha2-256", ED25519]


def test_the_command_that_accepts_a_key_is_one_shell_line(server: Server, known_file: Path) -> None:
    words = shlex.split(refusal(server).fix.split("accept it with: ")[1])
    assert words[0] == "echo"
    assert words[-2:] == [">>", str(known_file)]
