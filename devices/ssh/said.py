"""What OpenSSH's client said when there is no connection, as the error that it means. It speaks English (LC_ALL=C)."""

import re
from collections.abc import Iterable, Sequence

from edgeopt.devices.ssh.config import DEFAULT_PORT, HostSettings
from edgeopt.devices.ssh.questions import A_PASSWORD
from edgeopt.errors import ConfigError, DeviceError, NotAuthorized, Unreachable

_DEBUG = re.compile(r"debug\d: ")
# What it says of its own accord, also where nothing is wrong.
_SMALL_TALK = (
    "OpenSSH_",
    "Authenticated to ",
    "Authenticated using ",
    "Transferred: ",
    "Bytes per second: ",
    "Pseudo-terminal ",
)
_OFFERED = re.compile(r"debug1: Offering public key: (.+?) [A-Z0-9-]+ (SHA256:\S+)( .*)?\Z")
_UNREADABLE = re.compile(r'Load key "(.+?)": (.+)\Z')
_METHODS = re.compile(r"debug1: Authentications that can continue: (\S+)\Z")
_DENIED = re.compile(r"(?:(\S+@\S+?): )?Permission denied \(")
_HOST_KEY = re.compile(r"debug1: Server host (?:key|certificate): (\S+) (SHA256:[^\s,]+)")
_NO_NAME = re.compile(r"Could not resolve hostname (\S+): (.+)\Z")
_NO_CONNECTION = re.compile(r"ssh: connect to (?:host|address) (\S+) port (\d+): (.+)\Z")
_BAD_CONFIGURATION = re.compile(r"(bad configuration option|Bad owner or permissions|percent_expand|unknown key %)", re.I)
_THROUGH = re.compile(r"(open failed: |stdio forwarding failed|Connection closed by UNKNOWN)")
_LOST = re.compile(r"Timeout, server \S+ not responding")
_CERTIFIED = "-cert-v01@openssh.com"
MANY_KEYS = 3
SHOWN_CHARACTERS = 600


def plain(lines: Iterable[str]) -> str:
    """What a user wants to know of the client's lines: no debugging, no small talk, nothing that is no text; cut where long."""
    told = [line for line in lines if line.strip() and not _DEBUG.match(line) and not line.startswith(_SMALL_TALK)]
    text = "; ".join(dict.fromkeys(line.strip() for line in told))
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else "..." + shown[-SHOWN_CHARACTERS:]


def shown_key(lines: Sequence[str]) -> tuple[str, str] | None:
    """Type and fingerprint of the last host key that a server has shown: that of a jump host comes before the device's."""
    found = [match for line in lines if (match := _HOST_KEY.match(line))]
    return (found[-1][1].removesuffix(_CERTIFIED), found[-1][2]) if found else None


def is_dropbear(lines: Sequence[str]) -> bool:
    """Whether the last server that has said what it is says so."""
    software = [line for line in lines if "remote software version" in line]
    return bool(software) and "dropbear" in software[-1].lower()


def host_key_failed(lines: Sequence[str]) -> bool:
    """Whether the client would not go on with the host's key."""
    return any("Host key verification failed" in line for line in lines)


def why_lost(lines: Sequence[str], dead_s: float) -> str:
    """Why a connection that stood has ended."""
    if any(_LOST.search(line) for line in lines):
        return f"nothing was heard from it for {dead_s:g} s"
    return plain(line for line in lines if re.search(r"onnect|client_loop|packet", line)) or "the other end closed it"


def failure(settings: HostSettings, lines: Sequence[str], tried: Sequence[str]) -> DeviceError | ConfigError:
    """What the client meant with ``lines`` when it ended before it was connected; ``tried``: what the user was asked for."""
    said = plain(lines)
    denied = _search(_DENIED, lines)
    if denied or "Too many authentication failures" in said:
        return not_authorized(settings, lines, tried, (denied and denied[1]) or "")
    if found := _search(_NO_NAME, lines):
        why, fix = f"no address is known for {found[1]!r}: {found[2]}", "check the name, or give the address"
        return Unreachable(f"{settings} cannot be reached", why=why, fix=fix)
    if _search(_THROUGH, lines) and shown_key(lines):
        fix = "check the address as the jump host sees it, and that its sshd has AllowTcpForwarding yes"
        return Unreachable(f"{settings} cannot be reached through its jump host", why=said, fix=fix)
    if found := _search(_NO_CONNECTION, lines):
        return _no_connection(settings, found)
    if _search(_BAD_CONFIGURATION, lines) and not shown_key(lines):
        fix = f"correct it until `ssh -G {settings.command[-1]}` works"
        return ConfigError("the SSH configuration cannot be used", why=said, fix=fix)
    return no_answer(settings, said)


def no_answer(settings: HostSettings, why: str) -> Unreachable:
    """Something took the connection and is no SSH server with which one can agree."""
    fix = "check that the port is that of an SSH server, and its log"
    if "no matching" in why:
        fix = "allow in ~/.ssh/config what it offers (HostKeyAlgorithms, KexAlgorithms, Ciphers), or give it a newer SSH server"
    return Unreachable(f"{settings} does not answer as an SSH server does", why=why or "it hung up", fix=fix)


def not_authorized(settings: HostSettings, lines: Sequence[str], tried: Sequence[str], server: str) -> NotAuthorized:
    """With what was tried, and with the command that gives ``server`` (``user@host``; a jump host, or the device) a key."""
    offered = [f"{found[1]} ({found[2]})" for line in lines if (found := _OFFERED.match(line))]
    unreadable = [f"{found[1]} (unreadable: {found[2]})" for line in lines if (found := _UNREADABLE.match(line))]
    everything = [*dict.fromkeys(offered), *dict.fromkeys(unreadable), *_once_but_passwords(tried)]
    methods = [found[1] for line in lines if (found := _METHODS.match(line))]
    accepted = ", ".join(sorted(methods[-1].split(","))) if methods else "nothing"
    many = any("Too many authentication failures" in line for line in lines)
    why = "the server ended the attempt: too many authentication failures" if many else ""
    parts = (why, f"tried: {', '.join(everything) or 'nothing, since there is no key here'}", f"the server accepts: {accepted}")
    place, what = f"{settings.user}@{settings.host}", f"{settings} lets nobody in with what there is here"
    port = "" if settings.port == DEFAULT_PORT else f"-p {settings.port} "
    if "@" in server and server.lower() != f"{settings.user}@{settings.called}".lower():
        place, port, what = server, "", f"{server}, on the way to {settings}, lets nobody in with what there is here"
    fix = f"add a public key to ~/.ssh/authorized_keys there (ssh-copy-id {port}{place}), or name the right key in"
    fix += " ~/.ssh/config (IdentityFile)"
    if many and len(offered) >= MANY_KEYS:
        fix = "the server counts every key as an attempt: name the right one with IdentityFile and set IdentitiesOnly yes"
    elif any("bad permissions" in line for line in lines):
        fix = "make the key readable for you alone: chmod 600"
    return NotAuthorized(what, why="; ".join(part for part in parts if part), fix=fix)


def _once_but_passwords(tried: Sequence[str]) -> list[str]:
    others = dict.fromkeys(item for item in tried if item != A_PASSWORD)
    return [*others, *(item for item in tried if item == A_PASSWORD)]


def _no_connection(settings: HostSettings, found: re.Match[str]) -> Unreachable:
    host, port, reason = found[1], found[2], found[3]
    why, fix = f"{host} port {port}: {reason}", "check the network and the address"
    if "refused" in reason:
        why, fix = (
            f"nothing listens on port {port} of {host}: {reason}",
            "switch its SSH server on, or give its port: ssh://user@host:port",
        )
    elif "timed out" in reason:
        why, fix = f"nothing answered at {host}: {reason}", "check that it is switched on and in this network"
    return Unreachable(f"{settings} cannot be reached", why=why, fix=fix)


def _search(pattern: re.Pattern[str], lines: Sequence[str]) -> re.Match[str] | None:
    return next((found for line in lines if not _DEBUG.match(line) and (found := pattern.search(line))), None)
