"""The RSA keys by which a device knows this computer.

``~/.android/adbkey`` (or ``$ANDROID_USER_HOME/adbkey``), where there is one: it is adb's own, which the user's devices have
accepted already, so that nobody has to touch a phone. Otherwise ``edgeopt/adbkey`` in the user's configuration folder
(``$XDG_CONFIG_HOME`` or ``~/.config``), made on first use and readable by its owner only. Where both exist, both are tried.
"""

import base64
import getpass
import hashlib
import os
import platform
import secrets
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from edgeopt.errors import NotAuthorized
from edgeopt.support.files import config_folder

_BITS = 2048


@dataclass(frozen=True, slots=True)
class Key:
    """A private key that was read from ``path``."""

    path: Path
    private: rsa.RSAPrivateKey

    def sign(self, token: bytes) -> bytes:
        """The signature of ``token`` (20 bytes, which the protocol treats as a SHA-1 digest)."""
        return self.private.sign(token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))

    def public(self) -> bytes:
        """The public half as ADB writes it: base64, a blank, and who asks."""
        return base64.b64encode(self._encoded()) + f" {_user()}@{platform.node() or 'unknown'}".encode()

    def fingerprint(self) -> str:
        """As a phone shows it when it asks: MD5 of the encoded public key (AdbDebuggingManager.getFingerprints)."""
        return hashlib.md5(self._encoded(), usedforsecurity=False).digest().hex(":").upper()

    def _encoded(self) -> bytes:
        # libcrypto_utils/android_pubkey.c: words of the modulus, -1/n mod 2^32, n, (2^2048)^2 mod n, e; all little-endian.
        numbers = self.private.public_key().public_numbers()
        inverse = -pow(numbers.n, -1, 1 << 32) % (1 << 32)
        modulus = numbers.n.to_bytes(_BITS // 8, "little")
        square = pow(2, 2 * _BITS, numbers.n).to_bytes(_BITS // 8, "little")
        return struct.pack("<LL256s256sL", _BITS // 32, inverse, modulus, square, numbers.e)


def own_keys() -> list[Key]:
    """The keys to try, the best first, at least one. Raises NotAuthorized where one cannot be read or made."""
    found = [_read(path) for path in (_of_adb(), _own()) if path.exists()]
    return found or [_make(_own())]


def _of_adb() -> Path:
    folder = os.environ.get("ANDROID_USER_HOME")
    return (Path(folder) if folder else Path.home() / ".android") / "adbkey"


def _own() -> Path:
    return config_folder() / "adbkey"


def _read(path: Path) -> Key:
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a key with a passphrase
        raise NotAuthorized(f"cannot read the ADB key {path}", why=str(error), fix=_unreadable(path)) from error
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size != _BITS:
        raise NotAuthorized(f"{path} is no ADB key", why=f"it is no RSA key of {_BITS:,} bits", fix=_unreadable(path))
    return Key(path, private)


def _unreadable(path: Path) -> str:
    return f"move {path} away: a new key is made on the next run, which the device then asks about"


def _make(path: Path) -> Key:
    private = rsa.generate_private_key(65537, _BITS)
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    temporary = path.with_name(f".adbkey.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        try:
            with suppress(FileExistsError):  # another thread or run was faster: its key is the one
                os.link(temporary, path)
        finally:
            temporary.unlink()
    except OSError as error:
        raise NotAuthorized(
            f"cannot keep an ADB key in {path.parent}",
            why=str(error),
            fix="make that folder writable, or point XDG_CONFIG_HOME to one that is",
        ) from error
    return _read(path)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the user database, as in containers
        return "unknown"
