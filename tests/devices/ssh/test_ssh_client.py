"""The process that holds a connection: it ends with this one, leaves nothing, and minds only what it is told to."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeopt.devices.ssh import folder as ssh_folder
from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE, Address, resolve
from edgeopt.devices.ssh.questions import Answers, Questions
from edgeopt.errors import LinkLost, NotAuthorized, Unreachable
from tests.devices.contract import fetched, output_of
from tests.emulators.sshd import Server, make_key, sshd

PROGRAM = """
import sys, time
from edgeopt.devices.ssh import transport as ssh
transport = ssh.connect(sys.argv[1])
print("connected", flush=True)
transport.run(["sleep", "60"], timeout_s=100)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def use(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes an ssh_config that knows the server and has its key, with these lines before."""

    def write(*lines: str) -> None:
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "ssh_config", *lines)))

    write()
    return write


def clients(folder: Path) -> list[str]:
    """Processes that name ``folder`` in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


@pytest.mark.usefixtures("use")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_killed_leaves_no_client_and_no_folder(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    private = tmp_path / "private"
    private.mkdir()
    # A name of 51 characters at most: longer ones have their sockets below /tmp.
    short = Path("/tmp") / f"edgeopt-test-{os.getpid()}"
    short.symlink_to(private)
    try:
        environment = os.environ | {"TMPDIR": str(short)}
        command = [sys.executable, "-c", PROGRAM, server.url]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None and process.stdout.readline() == b"connected\n"
            assert clients(short) and list(private.iterdir())
            process.send_signal(how)
        assert until(lambda: not clients(short) and not list(private.iterdir())), clients(short)
    finally:
        short.unlink()


@pytest.mark.usefixtures("use")
def test_a_folder_whose_owner_is_gone_is_removed_by_the_next_and_others_stay(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ssh_folder, "_PLAIN", ssh_folder.re.compile(".*"))
    monkeypatch.setattr(ssh_folder, "_YOUNG_S", -1.0)
    living, gone = ssh_folder.PrivateFolder(), tmp_path / "edgeopt-ssh-gone"
    gone.mkdir(mode=0o700)
    (gone / "owner").touch()
    ssh_folder.PrivateFolder().close()
    assert living.path.exists() and not gone.exists()
    assert living.path.stat().st_mode & 0o777 == 0o700
    living.close()
    assert not living.path.exists()


def test_a_folder_for_temporary_files_from_which_nothing_may_be_run_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp") / f"edgeopt-noexec-{os.getpid()}"
    short.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", str(short)], capture_output=True)
    try:
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
        monkeypatch.setattr(ssh_folder.tempfile, "gettempdir", lambda: str(short))
        folder = ssh_folder.PrivateFolder()
        assert short not in folder.path.parents
        folder.close()
    finally:
        subprocess.run(["umount", str(short)], capture_output=True)
        short.rmdir()


def test_what_the_configuration_says_for_sessions_by_hand_does_not_interfere(
    server: Server, use: Callable[..., None], tmp_path: Path
) -> None:
    control = tmp_path / "control"
    use(
        "ControlMaster auto", f"ControlPath {control}", "ControlPersist yes", "RemoteCommand echo by hand", "RequestTTY force",
        "LocalForward 127.0.0.1:1 127.0.0.1:2", "RemoteForward 1 127.0.0.1:2", "ExitOnForwardFailure yes", "ForwardX11 yes",
        "PermitLocalCommand yes", f"LocalCommand touch {tmp_path / 'touched'}", "LogLevel QUIET", "ForkAfterAuthentication yes",
        "SessionType none", "StdinNull yes", "ConnectTimeout 9", "BatchMode yes", "SendEnv *", "ServerAliveInterval 0",
    )  # fmt: skip
    transport = ssh.connect(server.url)
    assert output_of(transport, "echo", "here") == b"here\n"
    transport.send(io.BytesIO(b"content"), str(tmp_path / "file"))
    assert fetched(transport, str(tmp_path / "file")) == b"content"
    assert not control.exists() and not (tmp_path / "touched").exists()
    transport.close()


def test_a_master_of_the_users_own_does_not_carry_the_connection(
    server: Server, use: Callable[..., None], tmp_path: Path
) -> None:
    use("ControlMaster auto", f"ControlPath {tmp_path / 'control'}", "ControlPersist 20")
    by_hand = ["ssh", "-F", os.environ[CONFIG_VARIABLE], "-p", str(server.port), server.host]
    subprocess.run([*by_hand, "true"], check=True, stderr=subprocess.DEVNULL)
    transport = ssh.connect(server.url)
    subprocess.run([*by_hand[:-1], "-O", "exit", server.host], check=True, capture_output=True)
    assert output_of(transport, "echo", "here") == b"here\n"
    transport.close()


def test_a_client_that_is_killed_is_a_lost_link(server: Server, use: Callable[..., None]) -> None:
    transport = ssh.connect(server.url)
    assert isinstance(transport, ssh.SshTransport)
    process = transport._pool._connections[0]._process
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(LinkLost):
        transport.run(["true"], timeout_s=5)
    transport.close()


@pytest.mark.usefixtures("use")
def test_nothing_of_a_url_is_an_option_or_a_shells_word() -> None:
    command = resolve(Address(host="host", user="user", port=7)).with_options("-N")
    assert command[-2:] == ["--", "host"] and command.index("-N") < command.index("--")


@pytest.mark.parametrize("form", ["PKCS8", "PEM"])
@pytest.mark.parametrize("key_type", ["rsa", "ecdsa"])
def test_keys_in_older_forms_are_accepted(
    server: Server, use: Callable[..., None], tmp_path: Path, form: str, key_type: str
) -> None:
    key = make_key(tmp_path / "mine", key_type)
    subprocess.run(["ssh-keygen", "-q", "-p", "-m", form, "-N", "", "-f", str(key)], check=True, capture_output=True)
    with server.authorized.open("a") as authorized:
        authorized.write(key.with_suffix(".pub").read_text())
    use(f"IdentityFile {key}")
    transport = ssh.connect(server.url)
    assert output_of(transport, "echo", "here") == b"here\n"
    transport.close()


def test_names_of_files_may_hold_variables_tokens_and_spaces(
    server: Server, use: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my keys"
    folder.mkdir()
    (folder / f"{server.port}-key").write_bytes(server.key.read_bytes())
    (folder / f"{server.port}-key").chmod(0o600)
    monkeypatch.setenv("EDGEOPT_TEST_KEYS", str(folder))
    config = server.client_config(tmp_path / "ssh_config", 'IdentityFile "${EDGEOPT_TEST_KEYS}/%p-key"', key=False)
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    ssh.connect(server.url).close()


def test_a_key_that_others_may_read_is_named_with_the_command_that_helps(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").write_bytes(server.key.read_bytes())
    (tmp_path / "open").chmod(0o644)
    config = server.client_config(tmp_path / "ssh_config", f"IdentityFile {tmp_path / 'open'}", key=False)
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    with pytest.raises(NotAuthorized, match="chmod 600"):
        ssh.connect(server.url)


def test_a_server_with_which_no_algorithm_is_shared_is_named(server: Server, use: Callable[..., None]) -> None:
    use("HostKeyAlgorithms ecdsa-sha2-nistp521")
    with pytest.raises(Unreachable, match="no matching host key type") as caught:
        ssh.connect(server.url)
    assert "HostKeyAlgorithms" in caught.value.fix


@pytest.mark.usefixtures("use")
def test_an_answer_is_given_again_without_a_question_and_a_code_is_not(tmp_path: Path) -> None:
    said = iter(["secret", "123456", "secret2"])
    answers = Answers(lambda question: next(said))
    settings = resolve(Address(host="host", user="anna"))
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with Questions(tmp_path / "first", settings, answers) as questions:
        assert questions._answer_to("anna@host's password: ") == "secret"
        assert questions._answer_to("(anna@host) Code: ") == "123456"
    with Questions(tmp_path / "second", settings, Answers(None, answers.kept)) as questions:
        assert questions._answer_to("anna@host's password: ") == "secret"
        assert questions._answer_to("(anna@host) Code: ") is None
        assert questions.nobody


def test_a_password_is_neither_in_a_file_nor_in_a_command_line(tmp_path: Path) -> None:
    """Of the client and of the program that it asks by: the socket is the only way."""
    settings = resolve(Address(host="host", user="anna"))
    with Questions(tmp_path, settings, Answers(lambda question: "geheim1")) as questions:
        environment = questions.environment()
        asking = subprocess.Popen([environment["SSH_ASKPASS"], "anna@host's password: "], stdout=subprocess.PIPE)
        assert until(lambda: bool(asking.poll() is None), 1)
        questions.socket.setblocking(True)
        questions.answer()
        assert asking.communicate(timeout=10)[0] == b"geheim1\n"
        assert all(b"geheim1" not in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
        assert "geheim1" not in str(environment)
