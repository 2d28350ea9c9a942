"""A server whose key OpenSSH's client would not accept: which key it is, and the command that accepts this very one."""

import base64
import binascii
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeopt.devices.ssh.config import CONFIG_VARIABLE, HostSettings
from edgeopt.devices.ssh.said import plain, shown_key
from edgeopt.errors import HostKeyRefused

_RSA_SIGNATURES = "rsa-sha2-512,rsa-sha2-256"
_SHORT_TYPES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}
_NAME = re.compile(
    r"authenticity of host '(\S+) |"
    r"No \S+ host key is known for (\S+?)(?: and you|\.|\Z)|Host key for (\S+) has changed|key for (\S+) is marked as revoked"
)
_OFFENDING = re.compile(r"Offending .*?key in (.+):(\d+)\Z")
_CHANGED, _REVOKED = "REMOTE HOST IDENTIFICATION HAS CHANGED", "REVOKED HOST KEY DETECTED"

Learn = Callable[[Sequence[str]], None]
"""Connects with these options of the client, as far as it goes."""


def refused(settings: HostSettings, lines: Sequence[str], folder: Path, learn: Learn) -> HostKeyRefused:
    """The error for what the client said in ``lines``; ``folder`` is private; ``learn`` asks for the key again."""
    key = shown_key(lines)
    if key is None:
        fix = f"see what `{_by_hand(settings)}` says"
        return HostKeyRefused(f"the host key of {settings} was refused", why=plain(lines), fix=fix)
    described = f"the {key[0]} key {key[1]}"
    name = next((next(filter(None, found.groups())) for line in lines if (found := _NAME.search(line))), "")
    place = f"{settings} ({name})" if name else str(settings)
    if any(_REVOKED in line for line in lines):
        what, fix = f"the host key of {place} is revoked", "do not connect; ask whoever revoked it"
        return HostKeyRefused(what, why=f"{described} stands as revoked in the known hosts", fix=fix)
    line = _learned(key, folder, learn)
    if any(_CHANGED in said for said in lines):
        return _changed(settings, place, described, lines, key[0], line)
    why = f"{described} is not among the known hosts"
    fix = f"{_compare(key[0])}; if it is the same, accept it with: {_accept(settings, line)}"
    return HostKeyRefused(f"the host key of {place} is not known", why=why, fix=fix)


def _changed(
    settings: HostSettings, place: str, described: str, lines: Sequence[str], key_type: str, line: str | None
) -> HostKeyRefused:
    found = next((match for said in lines if (match := _OFFENDING.search(said))), None)
    file, number = (found[1], int(found[2])) if found else ("the file of known hosts", 0)
    why = f"it shows {described}, but {file} holds {_fingerprint_in(file, number) or 'another key'}: "
    why += "the device was set up anew, or something else answers in its place"
    name = line.split()[0] if line else ""
    remove = f"{shlex.join(['ssh-keygen', '-R', name, '-f', file])} && " if name and found else ""
    fix = f"{_compare(key_type)}; only if it is the same: {remove}{_accept(settings, line)}"
    return HostKeyRefused(f"the host key of {place} has changed", why=why, fix=fix)


def _learned(key: tuple[str, str], folder: Path, learn: Learn) -> str | None:
    """The line of a file of known hosts for the very key that was refused; None where the server does not show it again.

    ssh-keyscan would not do: it knows neither the user's configuration nor jump hosts.
    """
    file = folder / "learned"
    algorithms = _RSA_SIGNATURES if key[0] == "ssh-rsa" else key[0]
    told = ["StrictHostKeyChecking=accept-new", "GlobalKnownHostsFile=/dev/null", "HashKnownHosts=no", "UpdateHostKeys=no"]
    told += ["CheckHostIP=no", "PreferredAuthentications=none", f"HostKeyAlgorithms={algorithms}", f"UserKnownHostsFile={file}"]
    learn([word for option in told for word in ("-o", option)])
    try:
        fields = file.read_text(encoding="utf-8").split("\n", 1)[0].split()
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(fields[:3]) if len(fields) >= 3 and _fingerprint(fields[2]) == key[1] else None


def _accept(settings: HostSettings, line: str | None) -> str:
    """Adds the very key that was shown; where it is not known, or is to be kept nowhere, the client itself asks for it."""
    if line is None or settings.known_hosts is None:
        return f"{_by_hand(settings)} true"
    file = settings.known_hosts
    folder = "" if file.parent.is_dir() else f"mkdir -p -m 700 {shlex.quote(str(file.parent))} && "
    return f"{folder}echo {shlex.quote(line)} >> {shlex.quote(str(file))}"


def _by_hand(settings: HostSettings) -> str:
    """As a user types it."""
    command = ["ssh", *(word for word in settings.command[1:-2]), settings.command[-1]]
    if CONFIG_VARIABLE in os.environ and settings.command[1] == "-F":
        command[2] = str(Path(command[2]).absolute())
    return shlex.join(command)


def _compare(key_type: str) -> str:
    name = _SHORT_TYPES.get(key_type, "ecdsa")
    return f"compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_{name}_key.pub` says on the device itself"


def _fingerprint_in(file: str, number: int) -> str:
    """Of the key in line ``number``, counted from 1."""
    try:
        fields = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()[number - 1].split()
    except (OSError, IndexError):
        return ""
    fields = fields[1:] if fields and fields[0].startswith("@") else fields
    return _fingerprint(fields[2]) if len(fields) >= 3 else ""


def _fingerprint(key: str) -> str:
    """As ``ssh-keygen -l`` shows it."""
    try:
        blob = base64.b64decode(key, validate=True)
    except binascii.Error:
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
