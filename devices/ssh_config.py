"""Where an SSH URL leads: the URL itself, and what the user's OpenSSH configuration says about its host.

The configuration is read by OpenSSH's own client (``ssh -G``), so that Include, Match, tokens and defaults mean here what they
mean there. Where that is not installed, paramiko's parser reads ~/.ssh/config; it knows neither Include nor all of Match, so
that a file with these is refused then, not half understood. ``EDGEOPT_SSH_CONFIG`` names another file, as ``ssh -F`` does.
"""

import getpass
import ipaddress
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgeopt.errors import ConfigError, UsageError
from edgeopt.urls import refuse_password

DEFAULT_PORT = 22
CONFIG_VARIABLE = "EDGEOPT_SSH_CONFIG"
_TIMEOUT_S = 20
# What OpenSSH accepts in names that reach a ProxyCommand's shell (ssh.c, valid_hostname and valid_ruser), and no leading dash.
_HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\Z")
_USER = re.compile(r"[^\s\x00-\x1f\x7f'`\"$\\;&<>|(){}/:-][^\s\x00-\x1f\x7f'`\"$\\;&<>|(){}/:]*\Z")
_DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a URL or one part of ProxyJump says; the configuration fills in what is None."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is needed to reach one SSH server. Files in ``identities`` and ``known_hosts`` need not exist."""

    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    identities_only: bool
    agent: str | None
    """The path of the agent's socket."""
    jumps: tuple[Address, ...]
    proxy_command: str | None
    known_hosts: tuple[Path, ...]
    """The first is the file to which a user adds a key."""
    host_key_alias: str | None

    def __str__(self) -> str:
        return str(Address(host=self.host, user=self.user, port=None if self.port == DEFAULT_PORT else self.port))


def parse_url(url: str) -> Address:
    """The address in ``ssh://[user@]host[:port]``. Raises UsageError with what is wrong; passwords have no place in a URL."""
    refuse_password(url)
    fix = "write ssh://user@host:port; an IPv6 address stands in brackets: ssh://user@[fe80::1]:22"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the device's URL {url!r} is wrong", why=str(error), fix=fix) from error
    why = ""
    if parts.scheme != "ssh":
        why = "its scheme is not ssh"
    elif parts.path not in ("", "/") or parts.query or parts.fragment:
        why = "something follows the host and port"
    elif port == 0:
        why = "there is no port 0"
    if why:
        raise UsageError(f"the device's URL {url!r} is wrong", why=why, fix=fix)
    user = None if parts.username is None else unquote(parts.username)
    return _checked(Address(host=unquote(parts.hostname or ""), user=user, port=port), url)


def parse_jumps(text: str) -> tuple[Address, ...]:
    """The addresses in a ProxyJump value (``[user@]host[:port],...``, or URLs), from the first hop to the last."""
    if text.strip().lower() in ("", "none"):
        return ()
    text = re.sub(r"\[([^\]:]*)\]", r"\1", text)  # ssh -G writes every host in brackets, which URLs have for IPv6 alone
    return tuple(parse_url(part if part.startswith("ssh://") else f"ssh://{part}") for part in text.replace(" ", "").split(","))


def resolve(address: Address) -> Settings:
    """What the user's configuration says about ``address``. Raises ConfigError where it cannot be read."""
    ssh = shutil.which("ssh")
    said = _ask_openssh(ssh, address) if ssh else _ask_paramiko(address)

    def one(key: str) -> str | None:
        value = said.get(key, [""])[-1]
        return None if value.lower() in ("", "none") else value

    host, user = one("hostname") or address.host, one("user") or getpass.getuser()
    port = int(one("port") or DEFAULT_PORT)
    if (one("proxyusefdpass") or "no") == "yes":
        why, fix = (
            f"it says ProxyUseFdpass yes for {address.host}",
            "use a ProxyCommand that carries the data itself, or ProxyJump",
        )
        raise ConfigError("the SSH configuration asks for what edgeopt cannot do", why=why, fix=fix)
    real = _checked(Address(host=host, user=user, port=port), f"ssh://{address}")
    tokens = {"h": host, "n": address.host, "p": str(port), "r": user, "u": getpass.getuser(), "d": str(Path.home()), "%": "%"}
    tokens["k"] = one("hostkeyalias") or host
    files = [name for key in ("userknownhostsfile", "globalknownhostsfile") for name in (one(key) or "").split()]
    proxy_command = one("proxycommand")
    return Settings(
        host=real.host,
        port=port,
        user=user,
        identities=tuple(_path(name, tokens) for name in said.get("identityfile", _DEFAULT_IDENTITIES) if name != "none"),
        identities_only=(one("identitiesonly") or "no") == "yes",
        agent=_agent(said.get("identityagent", ["SSH_AUTH_SOCK"])[-1], tokens),
        jumps=parse_jumps(one("proxyjump") or ""),
        proxy_command=None if proxy_command is None else _expand(proxy_command, tokens),
        known_hosts=tuple(_path(name, tokens) for name in files) or (_path("~/.ssh/known_hosts", tokens),),
        host_key_alias=one("hostkeyalias"),
    )


def _checked(address: Address, given: str) -> Address:
    """Names go into commands and into the host keys' lookup: only what OpenSSH accepts too."""
    host = address.host.partition("%")[0]  # fe80::1%eth0
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        if not _HOST.match(address.host):
            what = f"{given!r} names no host"
            fix = "give a host's name or its address, as in ssh://pi@192.168.1.20"
            raise UsageError(what, why=f"{address.host!r} is neither a name nor an address", fix=fix) from error
    if address.user is not None and not _USER.match(address.user):
        raise UsageError(
            f"{given!r} names no user", why=f"{address.user!r} holds what no user's name may hold", fix="correct it"
        )
    return address


def _ask_openssh(ssh: str, address: Address) -> dict[str, list[str]]:
    command = [ssh, "-G"]
    if file := os.environ.get(CONFIG_VARIABLE):
        command += ["-F", file]
    if address.user:
        command += ["-l", address.user]
    if address.port:
        command += ["-p", str(address.port)]
    try:
        done = subprocess.run([*command, address.host], capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        why, fix = f"ssh -G gave no answer in {_TIMEOUT_S} s", "look at `Match exec` there"
        raise ConfigError("the SSH configuration cannot be read", why=why, fix=fix) from error
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip()
        raise ConfigError(
            "the SSH configuration cannot be read", why=why, fix=f"correct it until `ssh -G {address.host}` works"
        )
    said: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    return said


def _ask_paramiko(address: Address) -> dict[str, list[str]]:
    from paramiko import SSHConfig, SSHException

    file = Path(os.environ.get(CONFIG_VARIABLE) or "~/.ssh/config").expanduser()
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if beyond := re.search(r"^\s*(Include|Match)\b.*$", text, re.MULTILINE | re.IGNORECASE):
        why = f"only OpenSSH's own client understands {beyond.group().strip()!r} in {file}, and it is not installed"
        raise ConfigError(
            "the SSH configuration cannot be read", why=why, fix="install it (Debian: apt install openssh-client)"
        )
    # The first value counts, so that the URL's go first.
    given = [f"{key} {value}\n" for key, value in (("User", address.user), ("Port", address.port)) if value]
    try:
        found = SSHConfig.from_text("".join(given) + text).lookup(address.host)
    except SSHException as error:
        raise ConfigError("the SSH configuration cannot be read", why=f"{file}: {error}", fix="correct the file") from error
    said = {key: value if isinstance(value, list) else [value or "none"] for key, value in found.items()}
    said.setdefault("userknownhostsfile", ["~/.ssh/known_hosts ~/.ssh/known_hosts2"])
    said.setdefault("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"])
    return said


def _expand(text: str, tokens: dict[str, str]) -> str:
    """OpenSSH's %-tokens; an unknown one is left as it is."""
    return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)


def _path(name: str, tokens: dict[str, str]) -> Path:
    return Path(_expand(name, tokens)).expanduser()


def _agent(value: str, tokens: dict[str, str]) -> str | None:
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK" or value.startswith("$"):
        return os.environ.get(value.removeprefix("$").strip("{}")) or None
    return str(_path(value, tokens))
