"""Who is let in over SSH: keys, the agent, passphrases, passwords and questions."""

import getpass
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.devices.transport import Ask
from edgeopt.errors import NotAuthorized
from tests.emulators.sshd import Server, asking_server, make_key, sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd"), "PasswordAuthentication yes", "MaxAuthTries 4") as running:
        yield running


Use = Callable[..., None]


@pytest.fixture
def use(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Writes an ssh_config that knows the server, with these lines and no key of its own."""

    def write(*lines: str) -> None:
        given = lines if any(line.startswith("IdentityFile") for line in lines) else ("IdentityFile none", *lines)
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config", *given, key=False)))

    return write


def lets_in(server: Server, ask: Ask | None = None) -> bool:
    transport = ssh.connect(server.url, ask)
    works = transport.run(["true"], timeout_s=10).exit_code == 0
    transport.close()
    return works


class Answers:
    """Gives one answer after another, and keeps the questions."""

    def __init__(self, *answers: str) -> None:
        self.left, self.questions = list(answers), list[str]()

    def __call__(self, question: str) -> str:
        self.questions.append(question)
        return self.left.pop(0)


def never(question: str) -> str:
    raise AssertionError(f"asked: {question}")


@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa", "rsa"])
def test_a_key_file_of_every_common_type_is_accepted(server: Server, use: Use, tmp_path: Path, key_type: str) -> None:
    key = make_key(tmp_path / "key", key_type)
    with server.authorized.open("a") as authorized:
        authorized.write(key.with_suffix(".pub").read_text())
    use(f"IdentityFile {key}")
    assert lets_in(server, never)


def test_a_key_that_is_not_authorised_is_refused_with_what_was_tried_and_the_command_that_helps(
    server: Server, use: Use, tmp_path: Path
) -> None:
    use(f"IdentityFile {make_key(tmp_path / 'wrong')}")
    with pytest.raises(NotAuthorized) as caught:
        ssh.connect(server.url)
    assert f"{tmp_path / 'wrong'} (SHA256:" in caught.value.why
    assert "the server accepts: keyboard-interactive, password, publickey" in caught.value.why
    assert f"ssh-copy-id -p {server.port}" in caught.value.fix


def test_no_key_at_all_is_refused(server: Server, use: Use) -> None:
    use()
    with pytest.raises(NotAuthorized, match="there is no key here"):
        ssh.connect(server.url)


def test_a_key_with_a_certificate_of_the_servers_authority_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "mine")
    user = getpass.getuser()
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", user, f"{key}.pub"], check=True, capture_output=True
    )
    with sshd(tmp_path / "sshd", f"TrustedUserCAKeys {authority}.pub") as server:
        config = server.client_config(tmp_path / "ssh_config", f"IdentityFile {key}", key=False)
        monkeypatch.setenv(CONFIG_VARIABLE, str(config))
        assert lets_in(server, never)
        server.authorized.write_text(key.with_suffix(".pub").read_text())
        Path(f"{key}-cert.pub").write_text("no certificate")
        assert lets_in(server, never)


def test_a_file_that_is_no_key_is_named(server: Server, use: Use, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a key")
    use(f"IdentityFile {tmp_path / 'text'}")
    with pytest.raises(NotAuthorized, match="text \\(unreadable"):
        ssh.connect(server.url)


@pytest.mark.parametrize("form", ["openssh", "pem"])
def test_a_locked_key_is_unlocked_with_its_passphrase(server: Server, use: Use, tmp_path: Path, form: str) -> None:
    key = shutil.copy(server.key, tmp_path / "locked")
    change = ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(key)]
    if form == "pem":
        key = make_key(tmp_path / "locked_pem", "rsa")
        with server.authorized.open("a") as authorized:
            authorized.write(key.with_suffix(".pub").read_text())
        change = ["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "open sesame", "-f", str(key)]
    subprocess.run(change, check=True, capture_output=True)
    use(f"IdentityFile {key}")
    answers = Answers("wrong", "open sesame")
    assert lets_in(server, answers)
    assert answers.questions == [f"passphrase of the key {key}"] * 2


def test_a_locked_key_is_not_asked_for_where_another_key_opens(server: Server, use: Use, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    use(f"IdentityFile {locked}", f"IdentityFile {server.key}")
    assert lets_in(server, never)


def test_a_passphrase_that_stays_wrong_is_refused(server: Server, use: Use, tmp_path: Path) -> None:
    use(f"IdentityFile {make_key(tmp_path / 'locked', passphrase='open sesame')}", "PasswordAuthentication no")
    with pytest.raises(NotAuthorized, match="locked"):
        ssh.connect(server.url, Answers(*["wrong"] * 6))


def test_a_wrong_password_is_asked_for_three_times_and_refused(server: Server, use: Use) -> None:
    use()
    answers = Answers("a", "b", "c", "d")
    with pytest.raises(NotAuthorized, match="a password, a password, a password"):
        ssh.connect(server.url, answers)
    assert answers.left == ["d"]


def test_too_many_keys_are_said_to_be_too_many(server: Server, use: Use, tmp_path: Path) -> None:
    keys = [make_key(tmp_path / f"key{number}") for number in range(6)]
    use(*(f"IdentityFile {key}" for key in keys))
    with pytest.raises(NotAuthorized, match="IdentitiesOnly yes"):
        ssh.connect(server.url)


@contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    path = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.poll() is None
        for key in keys:
            subprocess.run(
                ["ssh-add", "-q", str(key)], check=True, capture_output=True, env=os.environ | {"SSH_AUTH_SOCK": str(path)}
            )
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def test_a_key_of_the_agent_is_accepted(server: Server, use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agent(tmp_path, server.key) as path:
        use(f"IdentityAgent {path}", "IdentitiesOnly no")
        assert lets_in(server, never)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        use("IdentityAgent SSH_AUTH_SOCK", "IdentitiesOnly no")
        assert lets_in(server, never)


def test_with_identities_only_the_agent_offers_the_named_keys_alone(server: Server, use: Use, tmp_path: Path) -> None:
    public = tmp_path / "public_only"
    shutil.copy(server.key.with_suffix(".pub"), public.with_suffix(".pub"))
    others = [make_key(tmp_path / f"other{number}") for number in range(5)]
    with agent(tmp_path, *others, server.key) as path:
        use(f"IdentityAgent {path}", f"IdentityFile {public}", "IdentitiesOnly yes")
        assert lets_in(server, never)
        use(f"IdentityAgent {path}", "IdentitiesOnly yes")
        with pytest.raises(NotAuthorized, match="there is no key here"):
            ssh.connect(server.url)


def test_an_agent_that_is_gone_is_no_error_of_its_own(server: Server, use: Use, tmp_path: Path) -> None:
    use(f"IdentityAgent {tmp_path / 'nothing'}", f"IdentityFile {server.key}")
    assert lets_in(server, never)


class Interface(paramiko.ServerInterface):
    """A server that asks: OpenSSH's own would need a user of this system with a password."""

    methods = "password"

    def get_allowed_auths(self, username: str) -> str:
        return self.methods

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if password == "right" else paramiko.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> int | paramiko.InteractiveQuery:
        return paramiko.InteractiveQuery("", "", ("PIN:", False), ("Code:", True))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return paramiko.AUTH_SUCCESSFUL if responses == ["1", "2"] else paramiko.AUTH_FAILED


class Interactive(Interface):
    methods = "keyboard-interactive"


@pytest.mark.parametrize(
    ("interface", "answers", "questions"),
    [
        (Interface(), ["wrong", "right"], ["password of anna@{}", "password of anna@{}"]),
        (Interactive(), ["0", "0", "1", "2"], ["anna@{}: PIN:", "anna@{}: Code:"] * 2),
    ],
)
def test_the_user_is_asked_for_what_the_server_asks(
    server: Server, use: Use, interface: Interface, answers: list[str], questions: list[str]
) -> None:
    with asking_server(interface, server.host_keys[0]) as url:
        place = url.rpartition("@")[2]
        use("HostKeyAlias asking")
        known = Path(os.environ[CONFIG_VARIABLE] + ".known_hosts")
        known.write_text(server.known_lines("asking"))
        given = Answers(*answers)
        ssh.connect(url, given).close()
        assert given.questions == [question.format(place) for question in questions]


def test_what_the_callback_raises_passes_through(server: Server, use: Use) -> None:
    use()

    def no_terminal(question: str) -> str:
        raise NotAuthorized("there is nobody to ask")

    with pytest.raises(NotAuthorized, match="nobody to ask"):
        ssh.connect(server.url, no_terminal)


def test_a_key_that_nobody_can_unlock_is_passed_over(server: Server, use: Use, tmp_path: Path) -> None:
    locked = Path(shutil.copy(server.key, tmp_path / "locked"))
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(locked)], check=True, capture_output=True)
    other = make_key(tmp_path / "other")
    with server.authorized.open("a") as authorized:
        authorized.write(other.with_suffix(".pub").read_text())

    def no_terminal(question: str) -> str:
        raise NotAuthorized("there is nobody to ask")

    use(f"IdentityFile {locked}", f"IdentityFile {other}")
    assert lets_in(server, no_terminal)
    assert lets_in(server)
    use(f"IdentityFile {locked}")
    with pytest.raises(NotAuthorized, match="nobody to ask"):
        ssh.connect(server.url, no_terminal)


def test_a_further_connection_asks_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd(tmp_path / "sshd", "MaxSessions 1") as server:
        change = ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(server.key)]
        subprocess.run(change, check=True, capture_output=True)
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config")))
        answers = Answers("wrong", "open sesame")
        transport = ssh.connect(server.url, answers)
        with ThreadPoolExecutor(3) as pool:
            done = pool.map(lambda number: transport.run(["sleep", "0.5"], timeout_s=20).exit_code, range(3))
            assert list(done) == [0, 0, 0]
        assert server.log.count("Accepted publickey") > 1
        assert not answers.left
        transport.close()
