"""Seals on what a cache keeps: what somebody else put there, or altered, does not carry this user's.

HMAC-SHA256 (RFC 2104) with a secret that lies outside of every cache: ``cache.key`` in edgeopt's part of the user's
configuration, or ``$EDGEOPT_CACHE_KEY``, for pipelines that hand a cache from one machine to the next.
"""

import hashlib
import hmac
import os
import secrets
from functools import cache
from pathlib import Path

from edgeopt.support.files import config_folder, make_folder, writing
from edgeopt.support.untrusted import read

VARIABLE = "EDGEOPT_CACHE_KEY"
_NAME = "cache.key"
_BYTES = 32


def seal(*parts: str) -> str:
    """The seal on ``parts``, in their order. Raises OSError, OutputError or RuntimeError where there can be no secret."""
    text = "".join(f"{len(part)} {part}\n" for part in parts).encode("utf-8", "surrogateescape")
    return hmac.new(_secret(), text, hashlib.sha256).hexdigest()


def holds(found: str, *parts: str) -> bool:
    """Whether ``found`` is the seal on ``parts``. Raises as :func:`seal` does."""
    return hmac.compare_digest(found.encode("utf-8", "surrogateescape"), seal(*parts).encode())


def _secret() -> bytes:
    given = os.environ.get(VARIABLE)
    return given.encode("utf-8", "surrogateescape") if given else _kept(config_folder() / _NAME)


@cache
def _kept(path: Path) -> bytes:
    if not path.exists():
        _make(path)
    try:
        kept = read(path, _BYTES)
    except OSError as error:
        raise OSError(f"{path} is no key of a cache: {error}") from error
    if len(kept) != _BYTES:
        raise OSError(f"{path} is no key of a cache: remove it")
    return kept


def _make(path: Path) -> None:
    """Readable by its user alone, and whole at once; of two that are made at the same time the last one counts."""
    make_folder(path.parent)
    temporary = path.with_name(f".{_NAME}.{secrets.token_hex(8)}")
    with writing(path):
        number = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
        temporary.replace(path)
