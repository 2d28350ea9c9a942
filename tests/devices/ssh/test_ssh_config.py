"""Where an SSH URL leads: URLs, the user's configuration, jump hosts and proxies."""

import getpass
import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices.ssh import client
from edgeopt.devices.ssh import config as ssh_config
from edgeopt.devices.ssh import transport as ssh
from edgeopt.devices.ssh.config import CONFIG_VARIABLE, Address, parse_url, resolve
from edgeopt.errors import ConfigError, DeviceError, HostKeyRefused, LinkLost, NotAuthorized, Unreachable, UsageError
from tests.emulators.sshd import HOST, Proxy, Server, free_port, make_key, sshd

URLS = [
    ("ssh://pi", Address(host="pi")),
    ("ssh://pi@192.168.1.20", Address(host="192.168.1.20", user="pi")),
    ("ssh://pi@host.local:2222/", Address(host="host.local", user="pi", port=2222)),
    ("ssh://[::1]:22", Address(host="::1", port=22)),
    ("ssh://anna@[fe80::1%25eth0]", Address(host="fe80::1%eth0", user="anna")),
    ("ssh://a%40b@host", Address(host="host", user="a@b")),
]
WRONG_URLS = [
    "ssh://", "ssh://-oProxyCommand=id", "ssh://-l@host", "ssh://host:0", "ssh://host:99999", "ssh://host:x", "ssh://ho st", "ssh://a;b",
    "ssh://$(id)", "ssh://`id`@host", "ssh://host/path", "ssh://host?x=1", "ssh://host#x", "ssh://[::1", "ssh://[zz]", "http://host",
    "ssh://ho\tst", "ssh://ho\nst",
    "ssh://user%20name@host", "ssh://host%0aProxyCommand", "ssh://a%24b@host",
]  # fmt: skip


@pytest.mark.parametrize(("url", "address"), URLS)
def test_a_url_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_wrong_url_is_refused_with_how_to_write_it(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(url)
    assert caught.value.fix


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="password") as caught:
        parse_url("ssh://pi:secret@host")
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        address = parse_url(f"ssh://{text}")
    except UsageError:
        return
    assert parse_url(f"ssh://{address}") == address or "%" in str(address) or "@" in (address.user or "")


CONFIG = """
Include {folder}/more_config
Host device
  HostName 10.0.0.7
  Port 2022
  User anna
  UserKnownHostsFile "{folder}/my hosts" %d/known2
  HostKeyAlias laboratory
  ConnectTimeout 7
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config"
    file.write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "more_config").write_text("Host included\n  HostName 10.0.0.8\n")
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    return file


@pytest.mark.usefixtures("config")
def test_the_configuration_of_a_host_counts(tmp_path: Path) -> None:
    settings = resolve(Address(host="device"))
    assert (settings.host, settings.port, settings.user, settings.called) == ("10.0.0.7", 2022, "anna", "laboratory")
    assert (settings.known_hosts, settings.connect_s) == (tmp_path / "my hosts", 7.0)


@pytest.mark.usefixtures("config")
def test_what_the_url_says_goes_before_the_configuration() -> None:
    settings = resolve(Address(host="device", user="carl", port=99))
    assert (settings.user, settings.port) == ("carl", 99)


@pytest.mark.usefixtures("config")
def test_a_host_without_configuration_has_defaults() -> None:
    settings = resolve(Address(host="elsewhere"))
    assert (settings.host, settings.port, settings.user) == ("elsewhere", 22, getpass.getuser())
    assert settings.known_hosts == Path.home() / ".ssh" / "known_hosts"


@pytest.mark.usefixtures("config")
def test_included_files_count() -> None:
    assert resolve(Address(host="included")).host == "10.0.0.8"


@pytest.mark.usefixtures("config")
def test_without_openssh_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="openssh-client"):
        resolve(Address(host="device"))


@pytest.mark.usefixtures("config")
def test_windows_is_said_to_be_without_shared_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_config, "SYSTEM", "nt")
    with pytest.raises(DeviceError, match="ControlMaster"):
        resolve(Address(host="device"))


def test_a_wrong_configuration_is_refused_with_what_openssh_says(config: Path) -> None:
    config.write_text("NoSuchOption yes\n")
    with pytest.raises(ConfigError, match="nosuchoption"):
        resolve(Address(host="device"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def jump(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("jump")) as running:
        with running.authorized.open("a") as authorized:
            authorized.write(server.authorized.read_text())
        yield running


def use(monkeypatch: pytest.MonkeyPatch, server: Server, file: Path, *lines: str, known: str | None = None) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(file, *lines, known=known)))


def test_a_device_behind_two_jump_hosts_works(
    server: Server, jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = server.known_lines() + jump.known_lines()
    lines = [
        "Host device",
        "  ProxyJump first,second",
        "Host first",
        f"  Port {jump.port}",
        "Host device second",
        f"  Port {server.port}",
    ]
    lines += ["Host device first second", f"  HostName {HOST}"]
    use(monkeypatch, server, tmp_path / "config", *lines, known=known)
    transport = ssh.connect("ssh://device")
    transport.send(io.BytesIO(b"content"), str(tmp_path / "copy"))
    assert transport.run(["cat", str(tmp_path / "copy")], timeout_s=10).stdout == b"content"
    assert len(transport.run(["head", "-c", "5000000", "/dev/zero"], timeout_s=30).stdout) == 5_000_000
    transport.close()
    with pytest.raises(LinkLost):
        transport.run(["true"], timeout_s=5)


def test_the_jump_hosts_key_is_verified_too(
    server: Server, jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Host device", f"  HostName {HOST}", f"  Port {server.port}", f"  ProxyJump localhost:{jump.port}"]
    use(monkeypatch, server, tmp_path / "config", *lines, known=server.known_lines())
    with pytest.raises(HostKeyRefused, match=str(jump.port)):
        ssh.connect("ssh://device")


def test_a_jump_host_asks_for_its_own_passphrase_and_is_named_where_it_lets_nobody_in(
    server: Server, jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    with jump.authorized.open("a") as authorized:
        authorized.write(locked.with_suffix(".pub").read_text())
    for key in (locked, make_key(tmp_path / "wrong")):
        lines = ["Host device", f"  HostName {HOST}", f"  Port {server.port}", f"  IdentityFile {server.key}"]
        lines += [f"  ProxyJump localhost:{jump.port}", "Host localhost", f"  IdentityFile {key}"]
        known = server.known_lines() + jump.known_lines(f"[localhost]:{jump.port}")
        monkeypatch.setenv(CONFIG_VARIABLE, str(server.client_config(tmp_path / "config", *lines, known=known, key=False)))
        asked: list[str] = []

        def answer(question: str, asked: list[str] = asked) -> str:
            asked.append(question)
            return "open sesame"

        if key == locked:
            ssh.connect("ssh://device", answer).close()
            assert asked == [f"passphrase of the key {locked}"]
        else:
            with pytest.raises(NotAuthorized, match="localhost, on the way to"):
                ssh.connect("ssh://device")


def test_a_device_that_the_jump_host_cannot_reach_is_unreachable(
    jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Host device", f"  HostName {HOST}", f"  Port {free_port()}", f"  ProxyJump localhost:{jump.port}"]
    use(monkeypatch, jump, tmp_path / "config", *lines, known=jump.known_lines(f"[localhost]:{jump.port}"))
    with pytest.raises(Unreachable, match="through"):
        ssh.connect("ssh://device")


def test_a_jump_host_that_goes_silent_is_noticed(
    server: Server, jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ALIVE_S", 1)
    monkeypatch.setattr(client, "ALIVE_COUNT", 1)
    proxy = Proxy(jump.port)
    known = server.known_lines() + jump.known_lines("jump")
    lines = ["Host device", f"  HostName {HOST}", f"  Port {server.port}", "  ProxyJump jump"]
    lines += ["Host jump", f"  HostName {HOST}", f"  Port {proxy.port}", "  HostKeyAlias jump"]
    use(monkeypatch, server, tmp_path / "config", *lines, known=known)
    transport = ssh.connect("ssh://device")
    threading.Timer(0.2, proxy.silence).start()
    start = time.monotonic()
    with pytest.raises(LinkLost):
        transport.run(["sleep", "15"], timeout_s=30)
    assert time.monotonic() - start < 6
    transport.close()
    proxy.close()


def test_a_proxy_command_carries_the_connection(
    server: Server, jump: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client is not installed")
    inner = jump.client_config(tmp_path / "inner")
    command = f"ProxyCommand ssh -F {inner} -p {jump.port} -W %h:%p {HOST}"
    lines = ["Host device", f"  HostName {HOST}", f"  Port {server.port}", f"  {command}"]
    use(monkeypatch, server, tmp_path / "config", *lines)
    transport = ssh.connect("ssh://device")
    assert transport.run(["echo", "here"], timeout_s=10).stdout == b"here\n"
    transport.close()


@pytest.mark.parametrize("command", ["false", "no-such-command-here", "echo nonsense; cat", "cat /dev/zero"])
def test_a_proxy_command_that_fails_is_unreachable(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(ssh_config, "CONNECT_S", 2.0)
    use(monkeypatch, server, tmp_path / "config", "Host device", f"  ProxyCommand {command}")
    with pytest.raises(Unreachable) as caught:
        ssh.connect("ssh://device")
    assert command != "no-such-command-here" or "not found" in caught.value.why


def test_an_ipv6_address_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        free_port("::1")
    except OSError:
        pytest.skip("there is no IPv6 here")
    with sshd(tmp_path / "sshd", host="::1") as server:
        use(monkeypatch, server, tmp_path / "config")
        transport = ssh.connect(f"ssh://[::1]:{server.port}")
        assert transport.run(["echo", "here"], timeout_s=10).stdout == b"here\n"
        transport.close()


@pytest.mark.parametrize("url", [f"ssh://{HOST}:{{}}", "ssh://no-such-host.invalid:{}"])
def test_nobody_there_is_unreachable_with_the_next_step(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("")
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    with pytest.raises(Unreachable) as caught:
        ssh.connect(url.format(free_port()))
    assert caught.value.why and caught.value.fix


def test_what_listens_but_is_no_ssh_server_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("")
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setattr(ssh_config, "CONNECT_S", 1.0)
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer as an SSH server"):
            ssh.connect(f"ssh://{HOST}:{port}")
        assert time.monotonic() - start < 5
