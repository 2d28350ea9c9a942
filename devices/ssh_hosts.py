"""Whether an SSH server is the one that the user knows: the files in which OpenSSH keeps servers' public keys.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": patterns, negated patterns, hashed names, markers @revoked and @cert-authority.
"""

import base64
import binascii
import hashlib
import hmac
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.devices.ssh_config import DEFAULT_PORT, Settings
from edgeopt.errors import ConfigError, HostKeyRefused

RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")
"""How a key of type ssh-rsa signs; SHA-1 is not accepted."""
_SHORT_TYPES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line of a file of known hosts that speaks of the wanted host."""

    type: str
    blob: bytes
    """The key as it goes over the wire (RFC 4253, section 6.6)."""
    marker: str
    file: Path


def known_name(settings: Settings) -> str:
    """The name under which the files hold the server: its alias, its name, or ``[name]:port`` where the port is not 22."""
    if settings.host_key_alias:
        return settings.host_key_alias.lower()
    host = settings.host.lower()
    return host if settings.port == DEFAULT_PORT else f"[{host}]:{settings.port}"


def known_keys(name: str, files: Iterable[Path]) -> tuple[KnownKey, ...]:
    """What ``files`` say about ``name``. Lines that are no entries are passed over, as OpenSSH does.

    Raises ConfigError for a file that is there but cannot be read.
    """
    return tuple(key for file in files for key in _read(name, file))


def wanted_types(keys: Sequence[KnownKey], offered: Sequence[str]) -> list[str]:
    """``offered`` algorithms with those of known keys first: a server with several keys then shows the known one."""
    known = {key.type for key in keys if key.marker == ""}
    return sorted(offered, key=lambda algorithm: _key_type(algorithm) not in known)


def check(settings: Settings, keys: Sequence[KnownKey], key_type: str, blob: bytes) -> None:
    """Raises HostKeyRefused unless the server's key is a known one that is not revoked."""
    same = [key for key in keys if key.blob == blob]
    if any(key.marker == "@revoked" for key in same):
        raise HostKeyRefused(
            f"the host key of {settings} is revoked",
            why=f"{_described(key_type, blob)} stands as revoked in {same[0].file}",
            fix="do not connect; ask whoever revoked it",
        )
    if any(key.marker == "" for key in same):
        return
    changed = [key for key in keys if key.marker == "" and key.type == key_type]
    raise _changed(settings, changed[0], key_type, blob) if changed else _unknown(settings, keys, key_type, blob)


def fingerprint(blob: bytes) -> str:
    """As ``ssh-keygen -l`` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _unknown(settings: Settings, keys: Sequence[KnownKey], key_type: str, blob: bytes) -> HostKeyRefused:
    why = f"{_described(key_type, blob)} is not among the known hosts"
    if any(key.marker == "@cert-authority" for key in keys):
        why += "; host certificates (@cert-authority) are not supported, only keys"
    elif keys:
        why += f", which hold keys of another type for it ({', '.join(sorted({key.type for key in keys}))})"
    fix = f"{_compare(key_type)}; if it is the same, accept it with: {_accept(settings, key_type, blob)}"
    return HostKeyRefused(f"the host key of {settings} is not known", why=why, fix=fix)


def _changed(settings: Settings, known: KnownKey, key_type: str, blob: bytes) -> HostKeyRefused:
    why = (
        f"it shows {_described(key_type, blob)}, but {known.file} holds {fingerprint(known.blob)}: "
        "the device was set up anew, or something else answers in its place"
    )
    remove = shlex.join(["ssh-keygen", "-R", known_name(settings), "-f", str(known.file)])
    fix = f"{_compare(key_type)}; only if it is the same: {remove} && {_accept(settings, key_type, blob)}"
    return HostKeyRefused(f"the host key of {settings} has changed", why=why, fix=fix)


def _described(key_type: str, blob: bytes) -> str:
    return f"the {key_type} key {fingerprint(blob)}"


def _compare(key_type: str) -> str:
    name = _SHORT_TYPES.get(key_type, "ecdsa")
    return f"compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_{name}_key.pub` says on the device itself"


def _accept(settings: Settings, key_type: str, blob: bytes) -> str:
    """Adds the very key that was shown: ssh-keyscan would fetch one anew, unverified, and cannot go through a jump host."""
    line = f"{known_name(settings)} {key_type} {base64.b64encode(blob).decode()}"
    file = settings.known_hosts[0]
    folder = "" if file.parent.is_dir() else f"mkdir -p -m 700 {shlex.quote(str(file.parent))} && "
    return f"{folder}echo {shlex.quote(line)} >> {shlex.quote(str(file))}"


def _read(name: str, file: Path) -> Iterator[KnownKey]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        what, fix = "the known SSH hosts cannot be read", "make the file readable, or name another with UserKnownHostsFile"
        raise ConfigError(what, why=f"{file}: {error.strerror}", fix=fix) from error
    for line in text.splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or not _matches(name, fields[0]):
            continue
        try:
            yield KnownKey(fields[1], base64.b64decode(fields[2], validate=True), marker, file)
        except binascii.Error:
            continue


def _matches(name: str, patterns: str) -> bool:
    if patterns.startswith("|1|"):
        return _matches_hash(name, patterns)
    matched = False
    for pattern in patterns.lower().split(","):
        if _glob(pattern.removeprefix("!")).fullmatch(name):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _matches_hash(name: str, hashed: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed.removeprefix("|1|").split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def _glob(pattern: str) -> re.Pattern[str]:
    """Only ``*`` and ``?`` are special: the brackets of ``[host]:port`` are not, as they would be for fnmatch."""
    return re.compile("".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern))


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm in RSA_SIGNATURES else algorithm
