"""Where an SSH URL leads: the URL itself, and what OpenSSH's own client says of its host (``ssh -G``).

The client reads the user's configuration; nothing of it is understood a second time here. What is asked of it is only what
messages to the user need. ``EDGEOPT_SSH_CONFIG`` names another file, as ``ssh -F`` does.
"""

import ipaddress
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgeopt.errors import ConfigError, DeviceError, UsageError
from edgeopt.support.urls import refuse_password

DEFAULT_PORT = 22
CONFIG_VARIABLE = "EDGEOPT_SSH_CONFIG"
CONNECT_S = 15.0
"""For a server to answer at all, where the user's own ConnectTimeout says nothing else."""
SYSTEM = os.name
_TIMEOUT_S = 20
# What OpenSSH accepts in names that reach a ProxyCommand's shell (ssh.c, valid_hostname and valid_ruser), and no leading dash.
_HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\Z")
_USER = re.compile(r"[^\s\x00-\x1f\x7f'`\"$\\;&<>|(){}/:-][^\s\x00-\x1f\x7f'`\"$\\;&<>|(){}/:]*\Z")
# Options that older clients do not know, and would refuse.
_NEWER_OPTIONS = {"forkafterauthentication": "ForkAfterAuthentication=no", "sessiontype": "SessionType=none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a URL says; the configuration fills in what is None."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """One SSH server, as OpenSSH's client goes to it."""

    host: str
    port: int
    user: str
    called: str
    """What the client calls the host: by its HostKeyAlias where it has one."""
    command: tuple[str, ...]
    """The client with the options and the destination of this server: ``(*command[:-2], option, ..., *command[-2:])``."""
    known_hosts: Path | None
    """The file to which a user adds a key; None where the configuration names none that keeps anything."""
    connect_s: float
    newer_options: tuple[str, ...]
    """Values for ``-o`` that this client knows, and older ones do not."""

    def __str__(self) -> str:
        return str(Address(host=self.host, user=self.user, port=None if self.port == DEFAULT_PORT else self.port))

    def with_options(self, *options: str) -> list[str]:
        """The whole command line of the client. Options of a command line go before the user's configuration."""
        return [*self.command[:-2], *options, *self.command[-2:]]


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
    elif set(url) & set("\t\r\n"):
        why = "it holds a tab or a line break"  # which urlsplit leaves out
    elif port == 0:
        why = "there is no port 0"
    if why:
        raise UsageError(f"the device's URL {url!r} is wrong", why=why, fix=fix)
    user = None if parts.username is None else unquote(parts.username)
    return _checked(Address(host=unquote(parts.hostname or ""), user=user, port=port), url)


def resolve(address: Address) -> HostSettings:
    """What the user's configuration says about ``address``.

    Raises ConfigError where it cannot be read, DeviceError where there is no OpenSSH that can hold a connection.
    """
    command = _command(address)
    said = _ask(command)

    def one(key: str, default: str) -> str:
        value = said.get(key, "")
        return default if value.lower() in ("", "none") else value

    timeout = one("connecttimeout", "")
    return HostSettings(
        host=one("hostname", address.host),
        port=int(one("port", str(DEFAULT_PORT))),
        user=one("user", address.user or ""),
        called=one("hostkeyalias", one("hostname", address.host)),
        command=command,
        known_hosts=_known_hosts(one("userknownhostsfile", "")),
        connect_s=float(timeout) if timeout.isdecimal() else CONNECT_S,
        newer_options=tuple(option for key, option in _NEWER_OPTIONS.items() if key in said),
    )


def _known_hosts(said: str) -> Path | None:
    """The first of the files, whose names ``ssh -G`` writes after each other, also where they hold spaces."""
    first = re.split(r" (?=/)", said)[0]
    return None if first in ("", os.devnull) else Path(first).expanduser()


def _command(address: Address) -> tuple[str, ...]:
    """Behind ``--`` nothing is an option. Raises DeviceError where there is no client."""
    fix = "install OpenSSH's client (Debian: apt install openssh-client)"
    if SYSTEM == "nt":
        why, fix = "OpenSSH for Windows cannot share a connection (ControlMaster)", "run edgeopt under Linux, macOS or WSL"
        raise DeviceError("SSH devices cannot be reached from Windows", why=why, fix=fix)
    if (ssh := shutil.which("ssh")) is None:
        raise DeviceError("SSH devices cannot be reached here", why="there is no `ssh` on the PATH", fix=fix)
    file = os.environ.get(CONFIG_VARIABLE)
    options = ["-F", file] if file else []
    if address.user:
        options += ["-l", address.user]
    if address.port:
        options += ["-p", str(address.port)]
    return (ssh, *options, "--", address.host)


def _ask(command: tuple[str, ...]) -> dict[str, str]:
    """The last value of every key."""
    what = "the SSH configuration cannot be read"
    try:
        done = subprocess.run(
            [*command[:-2], "-G", *command[-2:]], capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        why, fix = f"ssh -G gave no answer in {_TIMEOUT_S} s", "look at `Match exec` there"
        raise ConfigError(what, why=why, fix=fix) from error
    if done.returncode != 0:
        why = done.stderr.decode(errors="backslashreplace").strip()
        raise ConfigError(what, why=why, fix=f"correct it until `ssh -G {command[-1]}` works")
    lines = done.stdout.decode(errors="surrogateescape").splitlines()
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def _checked(address: Address, given: str) -> Address:
    """Names go into commands: only what OpenSSH accepts too."""
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
