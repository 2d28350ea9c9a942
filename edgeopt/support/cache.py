"""Work that is not done again: folders of files under a key, kept between exports.

    ROOT/v1/KEY/files/...        what was made
    ROOT/v1/KEY/digests.json     sha256 of each of these files
    ROOT/v1/KEY/seal             the user's own, on KEY and these digests

An entry is put in place by one rename, so several processes may use one cache. Reading checks the seal and every digest: an
entry that a full disk or a crash has damaged, or that somebody else made or altered, counts as missing. Files are copied
out, never hard-linked: whoever edits an artifact in a bundle must not change the cache.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeopt.errors import OutputError
from edgeopt.support.files import cache_folder, copy_tree, files_below, safe_relative, sha256_of, size_of
from edgeopt.support.scratch import Scratch, clear, scratch
from edgeopt.support.seal import holds, seal
from edgeopt.support.untrusted import RECORD_BYTES, read

_LAYOUT = "v1"
_FILES = "files"
_DIGESTS = "digests.json"
_SEAL = "seal"
_SEAL_BYTES = 1024
_VALUE = "value.json"
_BUILDING, _TRASH, _ENTRY = ".building-", ".trash-", "entry"
_DEFAULT_MAX_BYTES = 10 * 1024**3
_IN_USE_S = 3600.0
"""An entry touched so lately may be in use by an export that still runs, and a folder being built may be as old as this."""


def default_root() -> Path:
    """``$EDGEOPT_CACHE``, else :func:`edgeopt.support.files.cache_folder`."""
    named = os.environ.get("EDGEOPT_CACHE")
    return Path(named) if named else cache_folder()


def drop_oldest(folder: Path, max_bytes: int, *, in_use_s: float = _IN_USE_S) -> None:
    """Removes the least recently used entries of ``folder`` (by their own times) until ``max_bytes`` are left, and what was
    abandoned (a name that begins with a dot), but nothing touched in the last ``in_use_s`` seconds."""
    entries = sorted((found for path in folder.iterdir() if (found := _measure(path))), reverse=True)
    kept, oldest = 0, time.time() - in_use_s
    for touched, size, path in entries:
        abandoned = path.name.startswith(".")
        kept += 0 if abandoned else size
        if touched < oldest and (abandoned or kept > max_bytes):
            kept -= 0 if abandoned else size
            _discard(path)


class Cache:
    """The entries below ``root``. With ``enabled=False`` nothing is read or written, and every key is missing.

    A cache that cannot be read or written never fails an export: the work is done anew, and ``warning`` says why, once, for
    the caller to show.
    """

    def __init__(self, root: Path | None = None, *, enabled: bool = True) -> None:
        self.warning: str | None = None
        self.enabled = enabled
        self._folder = Path()
        if enabled:
            self._open(root)

    @staticmethod
    def key(*parts: str | bytes | Mapping[str, Any]) -> str:
        """SHA-256 over ``parts`` in order: strings, bytes and JSON data, where the order of a mapping's keys does not count."""
        digest = hashlib.sha256()
        for part in parts:
            if isinstance(part, bytes):
                kind, content = "bytes", part
            elif isinstance(part, str):
                kind, content = "str", part.encode()
            else:
                kind, content = "json", json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
            digest.update(f"{kind} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def get(self, key: str) -> Path | None:
        """The folder with the files under ``key``, to be read only, or None where missing or damaged."""
        if not self.enabled:
            return None
        entry = self._folder / key
        try:
            listed = read(entry / _DIGESTS, RECORD_BYTES).decode()
            sealed = holds(read(entry / _SEAL, _SEAL_BYTES).decode(), key, listed)
            if sealed and json.loads(listed) == _digests(entry / _FILES):
                os.utime(entry)
                return entry / _FILES
        except FileNotFoundError:
            if not entry.exists():
                return None
        except (OSError, ValueError, RecursionError) as error:
            self._warn(f"the cache entry {entry} cannot be read: {error}")
        _discard(entry)
        return None

    @contextmanager
    def building(self, key: str) -> Iterator[Path]:
        """A new folder; what the block puts there stands under ``key`` afterwards, whole or not at all.

        Only copy into it what exists elsewhere too: where the disk is full or read-only, the OSError or OutputError of the
        block is kept as ``warning`` and the entry is given up. Any other exception passes through.
        """
        if not self.enabled:
            with scratch() as nowhere:
                yield nowhere
            return
        building: Scratch | None = None
        try:
            building = Scratch(self._folder, _BUILDING)
            work = building.path / _ENTRY
            (work / _FILES).mkdir(parents=True)
            yield work / _FILES
            listed = json.dumps(_digests(work / _FILES))
            (work / _DIGESTS).write_text(listed)
            (work / _SEAL).write_text(seal(key, listed))
            self._put(work, self._folder / key)
        except (OSError, OutputError) as error:
            self._warn(f"the cache {self._folder.parent} cannot be written: {error}")
        finally:
            if building is not None:
                building.close()

    def link(self, key: str, name: str, destination: Path) -> bool:
        """Copies the file or folder ``name`` of the entry to ``destination``; whether it was there.

        Shares the disk blocks where the file system can (btrfs, XFS). Raises OutputError where ``destination`` cannot be
        written.
        """
        folder = self.get(key)
        if folder is None or not (source := folder / safe_relative(name)).exists():
            return False
        copy_tree(source, destination)
        return True

    def get_json(self, key: str) -> Any | None:
        """The value put under ``key``, or None, also where what stands there is no value."""
        folder = self.get(key)
        try:
            return None if folder is None else json.loads(read(folder / _VALUE, RECORD_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            self._warn(f"the cache entry {self._folder / key} cannot be read: {error}")
            return None

    def put_json(self, key: str, value: Any) -> None:
        """Keeps ``value``, JSON data, under ``key``."""
        text = json.dumps(value)
        with self.building(key) as folder:
            (folder / _VALUE).write_text(text)

    def prune(self, max_bytes: int = _DEFAULT_MAX_BYTES, *, in_use_s: float = _IN_USE_S) -> None:
        """Removes the least recently used entries until ``max_bytes`` are left, but none touched in the last ``in_use_s``."""
        if self.enabled:
            drop_oldest(self._folder, max_bytes, in_use_s=in_use_s)

    def _open(self, root: Path | None) -> None:
        try:
            self._folder = (root or default_root()).absolute() / _LAYOUT
            self._folder.mkdir(parents=True, exist_ok=True)
            for prefix in (_BUILDING, _TRASH):
                clear(self._folder, prefix)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
            self.enabled = False
            self._warn(f"no cache is used, because it cannot be written: {error}")
            return
        try:
            seal()
        except (OSError, OutputError, RuntimeError) as error:
            self.enabled = False
            self._warn(f"no cache is used, because what is in it could not be told from somebody else's: {error}")

    def _put(self, work: Path, entry: Path) -> None:
        try:
            work.rename(entry)
        except OSError:
            # Another process was faster with the same key, unless what stands there is damaged.
            if self.get(entry.name) is None:
                work.rename(entry)

    def _warn(self, warning: str) -> None:
        self.warning = self.warning or warning


def _discard(entry: Path) -> None:
    # Renamed first, so that nobody finds half of it.
    with contextlib.suppress(OSError):
        trash = Scratch(entry.parent, _TRASH)
        try:
            entry.rename(trash.path / _ENTRY)
        finally:
            trash.close()


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in files_below(folder)}


def _measure(entry: Path) -> tuple[float, int, Path] | None:
    try:
        return entry.stat().st_mtime, size_of(entry), entry
    except OSError:  # another process has just removed it
        return None
