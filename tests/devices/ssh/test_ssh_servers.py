"""Servers as devices have them: every login shell, start-up files that print or end, slow links."""

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.devices.ssh import client, sftp
from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.command import Line, Marked
from edgeopt.devices.ssh.config import CONFIG_VARIABLE
from edgeopt.devices.transport import Transport
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout
from tests.devices.contract import EXOTIC_ARGUMENTS, fetched, output_of
from tests.emulators.sshd import HOST, Proxy, Server, connected, sshd

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
SHELLS = {
    "bash": ["bash"], "rbash": ["bash", "-r"], "dash": ["dash"], "ash": ["busybox", "ash"], "fish": ["fish"], "tcsh": ["tcsh"],
    "csh": ["csh"], "zsh": ["zsh"], "mksh": ["mksh"],
}  # fmt: skip


def installed(name: str) -> str:
    if (found := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def with_login(folder: Path, login: str) -> Iterator[Transport]:
    """A server whose user has ``login``, a line for bash, as the login shell; also for its SFTP server."""
    with (
        sshd(folder / "sshd", f"ForceCommand {login}", sftp=SFTP_SERVER) as server,
        connected(server, folder) as transport,
    ):
        yield transport


@pytest.mark.parametrize("name", SHELLS)
def test_every_login_shell_takes_every_argument_literally(tmp_path: Path, name: str) -> None:
    program, *options = SHELLS[name]
    login = " ".join([installed(program), *options, "-c", '"$SSH_ORIGINAL_COMMAND"'])
    arguments = [*EXOTIC_ARGUMENTS, "long " * 2000, "!!", "\\'", "a\\", "\\\n", "%h ^x^y", "=ls", "if", "a=b", "\x01\x7f\udcff"]
    with with_login(tmp_path, login) as transport:
        printed = output_of(transport, "printf", "%s\\0", *arguments)
        assert printed.decode(errors="surrogateescape").split("\0")[:-1] == arguments
        finished = transport.run(["sh", "-c", "echo out\necho err >&2\nexit 7"], timeout_s=10)
        assert (finished.exit_code, finished.stdout, finished.stderr) == (7, b"out\n", b"err\n")
        assert transport.run(["sh", "-c", "kill -9 $$"], timeout_s=10).exit_code == 137
        if name != "rbash":  # a restricted shell starts no SFTP server by its path, for nobody
            transport.send(io.BytesIO(b"content"), str(tmp_path / "file"))
            assert fetched(transport, str(tmp_path / "file")) == b"content"


@pytest.mark.parametrize("asked_after_s", [0.0, 1.0])
def test_a_restricted_shell_that_starts_no_sftp_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_after_s: float
) -> None:
    """Whether it has ended before it is asked anything, as on a busy computer, or not yet."""

    def late(stream: sftp.Stream) -> sftp.Sftp:
        time.sleep(asked_after_s)
        return opened(stream)

    opened = sftp.Sftp
    monkeypatch.setattr(sftp, "Sftp", late)
    with (
        with_login(tmp_path, 'bash -r -c "$SSH_ORIGINAL_COMMAND"') as transport,
        pytest.raises(DeviceError, match="SFTP server did not start"),
    ):
        fetched(transport, "/proc/version")


def test_a_user_without_a_shell_is_told_from_a_command_that_fails(tmp_path: Path) -> None:
    with (
        with_login(tmp_path, "echo This account is not available.; exit 1") as transport,
        pytest.raises(DeviceError, match="This account is not available"),
    ):
        transport.run(["test", "-f", "/etc/passwd"], timeout_s=10)


def test_a_login_shell_that_says_that_all_went_well_is_not_believed(tmp_path: Path) -> None:
    with with_login(tmp_path, "echo /root; exit 0") as transport, pytest.raises(BadAnswer, match="runs no command"):
        transport.run(["pwd"], timeout_s=10)


@pytest.mark.parametrize(
    "noise", ["echo Welcome to lab board 7", "echo Welcome >&2", r"printf '\033]0;board7\007'", "printf %65000s x; set -x"]
)
def test_what_start_up_files_print_is_no_output_of_a_command(tmp_path: Path, noise: str) -> None:
    login = f'{noise}; bash -c "$SSH_ORIGINAL_COMMAND"'
    with with_login(tmp_path, login) as transport:
        finished = transport.run(["sh", "-c", "echo out; exit 3"], timeout_s=10)
        assert (finished.exit_code, finished.stdout) == (3, b"out\n")
        transport.send(io.BytesIO(b"content"), str(tmp_path / "file"))
        assert fetched(transport, str(tmp_path / "file")) == b"content"


def test_start_up_files_that_wait_are_named(tmp_path: Path) -> None:
    login = 'echo waiting for the network; sleep 3; bash -c "$SSH_ORIGINAL_COMMAND"'
    with with_login(tmp_path, login) as transport, pytest.raises(DeviceTimeout, match=r"start-up files.*waiting for the net"):
        transport.run(["true"], timeout_s=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"").decode(errors="surrogateescape")), max_size=4))
def test_any_arguments_go_through_a_shell(arguments: list[str]) -> None:
    line, out = Line(["printf", "%s\\0", *arguments, "end"]), bytearray()
    done = subprocess.run(["sh", "-c", line.text], capture_output=True, check=True)
    Marked(line.mark, out.extend)(done.stdout)
    assert out.decode(errors="surrogateescape").split("\0")[:-1] == [*arguments, "end"]
    assert all(32 <= byte < 127 for byte in line.text)


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 10))
def test_a_mark_is_found_wherever_pieces_are_cut(pieces: list[bytes], step: int) -> None:
    line, out = Line(["true"]), bytearray()
    whole = b"noise" + line.mark + b"".join(pieces)
    marked = Marked(line.mark, out.extend)
    for start in range(0, len(whole), step):
        marked(whole[start : start + step])
    assert (bytes(out), marked.begun, marked.noise) == (b"".join(pieces), True, b"noise")


def slow_link(server: Server, folder: Path, bytes_per_s: float, buffer_bytes: int) -> tuple[Proxy, Transport]:
    """Also with large buffers on the way, which take much more than the link carries in the time that a dead one is given."""
    config = server.client_config(folder / "ssh_config", "HostKeyAlias device", known=server.known_lines("device"))
    proxy = Proxy(server.port, bytes_per_s, buffer_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(config))
        return proxy, ssh.connect(f"ssh://{HOST}:{proxy.port}")


@pytest.mark.parametrize("buffer_bytes", [4096, 4 * 1024**2])
def test_a_push_over_a_slow_link_takes_its_time_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr(client, "ALIVE_S", 1)
    monkeypatch.setattr(client, "ALIVE_COUNT", 1)
    monkeypatch.setattr(sftp, "SHORT_S", 0.05)
    monkeypatch.setattr(sftp, "LONG_S", 0.2)
    content, waits = os.urandom(1_000_000), list[float]()
    with sshd(tmp_path / "sshd") as server:
        proxy, transport = slow_link(server, tmp_path, 200_000, buffer_bytes)
        with ThreadPoolExecutor(1) as pool:
            push = pool.submit(transport.send, io.BytesIO(content), str(tmp_path / "file"))
            while not push.done():
                start = time.monotonic()
                transport.send(io.BytesIO(b"beat"), str(tmp_path / "beat"))
                waits.append(time.monotonic() - start)
                time.sleep(0.3)
            push.result()
        assert (tmp_path / "file").read_bytes() == content
        assert max(waits) < 2.5
        transport.close()
        proxy.close()


@pytest.mark.slow
@pytest.mark.parametrize(("bytes_per_s", "count"), [(16_000, 700_000), (1_000, 40_000)])
def test_a_push_over_a_link_of_a_modem_arrives(tmp_path: Path, bytes_per_s: int, count: int) -> None:
    content = os.urandom(count)
    with sshd(tmp_path / "sshd") as server:
        proxy, transport = slow_link(server, tmp_path, bytes_per_s, 4 * 1024**2)
        transport.send(io.BytesIO(content), str(tmp_path / "file"))
        assert (tmp_path / "file").read_bytes() == content
        transport.close()
        proxy.close()
