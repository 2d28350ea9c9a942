"""The bundle: one folder with every target's artifacts, ``manifest.json``, ``SHA256SUMS`` and the logs.

    NAME/TARGET/...        artifacts
    NAME/logs/...          what the libraries printed
    NAME/manifest.json     every result with its reasons and checks (edgeopt.core.Manifest)
    NAME/SHA256SUMS        ``sha256sum -c SHA256SUMS`` checks every file but itself and the logs

The logs hold times and process numbers, so they differ from run to run; they are not part of what is delivered, may be deleted,
and stand in no list of digests.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from edgeopt.bundle.output_lock import OutputLock
from edgeopt.core import (
    LOG_FOLDER,
    MANIFEST_NAME,
    MANIFEST_SCHEMA_VERSION,
    SUMS_NAME,
    Manifest,
    TargetResult,
    from_json,
    to_json,
)
from edgeopt.errors import ConfigError, OutputError
from edgeopt.support.files import files_below, make_folder, safe_relative, sha256_of, sync, write_atomic, writing
from edgeopt.support.scratch import Scratch, abandoned, remove_scratch
from edgeopt.support.untrusted import RECORD_BYTES, NotRead, read, shown

EXPORT_LOG = "edgeopt.log"
_NEW, _OLD = "new", "old"
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A written bundle."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Self:
        """The bundle in the folder ``path``. Raises ConfigError where there is none, or one that this version cannot read."""
        file = path / MANIFEST_NAME
        try:
            text = read(file, RECORD_BYTES)
        except OSError as error:
            why, fix = f"{file} cannot be read: {error.strerror}", "give the folder that `edgeopt export --out` wrote"
            raise ConfigError(f"{path} is not a bundle", why=why, fix=fix) from error
        _check_version(file, text)
        try:
            return cls(path, from_json(Manifest, text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part)[:64] for part in first["loc"])
            raise ConfigError(f"{file} is damaged", why=f"{where}: {first['msg']}", fix="export again") from error

    def artifact_path(self, result: TargetResult) -> Path:
        """The file or folder of ``result``'s artifact.

        Raises ConfigError where it has none, or where the manifest (which may come from anywhere) names one outside the bundle.
        """
        if result.artifact is None:
            raise ConfigError(f"{result.target} ({result.format}) has no artifact", why=result.reason or result.status)
        try:
            path = self.path / safe_relative(result.artifact.path)
        except ValueError as error:
            raise _outside(self.path, result) from error
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise _outside(self.path, result)
        return path

    def verify(self) -> tuple[str, ...]:
        """What does not fit the list of digests and the manifest, one sentence each: missing, changed and unlisted files."""
        try:
            listed = dict(listed_in(self.path))
        except (OSError, ValueError) as error:
            return (f"{SUMS_NAME} cannot be read: {error}",)
        present = _delivered(self.path)
        problems = [f"{name} is missing" for name in listed if name not in present]
        problems += [f"{name} is not listed in {SUMS_NAME}" for name in present if name not in listed]
        for name in present:
            if (self.path / name).is_symlink() or not (self.path / name).is_file():
                problems.append(f"{name} is a link or a special file")
            elif name in listed and sha256_of(self.path / name) != listed[name]:
                problems.append(f"{name} has changed")
        return (*problems, *self._artifact_problems())

    def _artifact_problems(self) -> Iterator[str]:
        for result in self.manifest.results:
            if result.artifact is None:
                continue
            try:
                path = self.artifact_path(result)
            except ConfigError as error:
                yield error.why
                continue
            if not path.exists():
                yield f"{result.artifact.path}, which {MANIFEST_NAME} names, is missing"
            elif sha256_of(path) != result.artifact.sha256:
                yield f"{result.artifact.path} is not what {MANIFEST_NAME} describes"


def listed_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of each file in the list of the bundle in ``folder``. Raises OSError, or ValueError for a broken line."""
    for number, line in enumerate(read(folder / SUMS_NAME, RECORD_BYTES).split(b"\n")[:-1], start=1):
        fields = _SUMS_LINE.fullmatch(os.fsdecode(line))
        if fields is None:
            raise ValueError(f"line {number} is not `<sha256>  <name>`")
        yield str(safe_relative(fields[2])), fields[1]


def log_name(target: str, fmt: str) -> str:
    """The file, in the folder of logs, with what libraries said while an artifact was made."""
    return f"{target}-{fmt}.log"


class BundleWriter:
    """Builds a bundle beside ``out`` and puts it in place at once: until :meth:`commit`, the old one stays as it is.

    Use it as a context manager; leaving without a commit removes all that was written. Raises OutputError where ``out`` is a
    file, a folder that is not a bundle, or cannot be written, and where another export writes to it at this moment.
    """

    def __init__(self, out: Path) -> None:
        self.out = _folder(out)
        self._scratch: Scratch | None = None
        self._lock: OutputLock | None = None

    @property
    def log_folder(self) -> Path:
        """Where logs go."""
        return self.folder(LOG_FOLDER)

    def committed(self, path: Path) -> Path:
        """Where ``path``, a file of the new bundle, is after :meth:`commit`: what a message must call it."""
        return self.out / path.relative_to(self._work)

    def folder(self, name: str) -> Path:
        """The folder ``name`` (a target's, or one below) of the new bundle, made where missing."""
        return make_folder(self._work / safe_relative(name))

    @property
    def _work(self) -> Path:
        """The new bundle while it grows."""
        assert self._scratch is not None, "it is a context manager"
        return self._scratch.path / _NEW

    def commit(self, manifest: Manifest) -> Bundle:
        """Writes ``manifest`` and the digests, and swaps the new bundle in. After an error or Ctrl-C the old one is back."""
        write_atomic(self._work / MANIFEST_NAME, to_json(manifest))
        with writing(self.out):
            for folder in self._work.iterdir():
                if folder.is_dir() and not any(folder.iterdir()):  # of a target that was skipped
                    folder.rmdir()
            names = _delivered(self._work)
            for name in names:
                sync(self._work / name)
            lines = [os.fsencode(f"{sha256_of(self._work / safe_relative(name))}  {name}\n") for name in names]
        write_atomic(self._work / SUMS_NAME, b"".join(lines))
        with writing(self.out):
            self._swap()
        return Bundle(self.out, manifest)

    def __enter__(self) -> Self:
        make_folder(self.out.parent)
        with writing(self.out):
            self._lock = OutputLock(self.out)
        try:
            self._recover()
            self._check_out()
            with writing(self.out):
                self._scratch = Scratch(self.out.parent, self._prefix)
                self._work.mkdir()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    @property
    def _prefix(self) -> str:
        """Of the folder beside ``out`` in which the new bundle grows, and to which the old one moves."""
        return f".{self.out.name}.tmp-"

    def _recover(self) -> None:
        """Tidies up after exports that were killed: of this bundle, and of others beside it that had not begun to swap."""
        for left in abandoned(self.out.parent, self._prefix):
            if (left / _OLD).is_dir() and not self.out.exists():
                with writing(self.out):
                    (left / _OLD).rename(self.out)
            remove_scratch(left)
        for left in abandoned(self.out.parent, "."):
            if not (left / _OLD).exists():
                remove_scratch(left)

    def _check_out(self) -> None:
        with writing(self.out):
            if self.out.exists() and not self.out.is_dir():
                raise OutputError(f"cannot write {self.out}", why="it is a file", fix="choose a new folder with --out")
            foreign = _not_ours(self.out) if self.out.is_dir() and any(self.out.iterdir()) else ""
        if foreign:
            fix = "choose a new folder with --out, or move elsewhere what is yours"
            raise OutputError(f"{self.out} is not replaced", why=foreign, fix=fix)

    def _swap(self) -> None:
        aside = self._work.with_name(_OLD)
        replaced = self.out.exists()
        try:
            if replaced:
                self.out.rename(aside)
            self._work.rename(self.out)
        except BaseException:
            if replaced and not self.out.exists():
                aside.rename(self.out)
            raise
        sync(self.out.parent)

    def _leave(self) -> None:
        try:
            if self._scratch is not None:
                self._scratch.close()
                self._scratch = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None


def _folder(out: Path) -> Path:
    """Where a bundle for ``out`` goes, links followed. Raises OutputError where a folder could not be swapped for another."""
    try:
        folder = out.resolve()
        mounted = folder.is_mount()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name with a null character
        raise OutputError(f"cannot write {out}", why=str(error), fix="choose another folder with --out") from error
    if mounted:
        raise OutputError(
            f"cannot write {out}",
            why="it is a mount point, which cannot be replaced at once by another folder",
            fix=f"choose a folder below it: --out {out / 'bundle'}",
        )
    return folder


def _not_ours(folder: Path) -> str:
    """What ``folder`` holds that no export wrote: it would be lost with the rest; empty where there is nothing."""
    try:
        manifest = json.loads(read(folder / MANIFEST_NAME, RECORD_BYTES))
    except FileNotFoundError:
        return f"it holds files, but no {MANIFEST_NAME}: edgeopt did not write it"
    except (NotRead, ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not {"schema_version", "edgeopt_version", "results"} <= set(manifest):
        return f"its {MANIFEST_NAME} is something else's: edgeopt did not write it"
    try:
        listed = {name for name, _ in listed_in(folder)}
    except (OSError, ValueError):
        return f"its {SUMS_NAME} cannot be read, so nobody knows which files edgeopt wrote"
    written = {*listed, SUMS_NAME, *_logs_of(manifest)}
    folders = {LOG_FOLDER, *(str(result.get("target")) for result in _results_of(manifest))}
    folders |= {str(parent) for name in written for parent in PurePosixPath(name).parents}
    others = [name for name in files_below(folder) if name not in written]
    others += [f"{name}/" for name in _folders_below(folder) if name not in folders]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"edgeopt did not write {others[0]!r}{more}, which it holds" if others else ""


def _results_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    results = manifest["results"]
    return [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []


def _logs_of(manifest: dict[str, Any]) -> Iterator[str]:
    """Names of the logs of the export that wrote ``manifest``; what else lies in their folder is somebody's."""
    yield f"{LOG_FOLDER}/{EXPORT_LOG}"
    for result in _results_of(manifest):
        yield f"{LOG_FOLDER}/{log_name(str(result.get('target')), str(result.get('format')))}"


def _folders_below(folder: Path) -> list[str]:
    """Names of all folders below ``folder``, of the kind of :func:`files_below`."""
    return [Path(parent, name).relative_to(folder).as_posix() for parent, names, _ in os.walk(folder) for name in names]


def _delivered(folder: Path) -> list[str]:
    """Names of the files that ``SHA256SUMS`` lists."""
    return [name for name in files_below(folder) if name != SUMS_NAME and not name.startswith(f"{LOG_FOLDER}/")]


def _check_version(file: Path, text: bytes) -> None:
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged", why="it is not JSON with a schema_version", fix="export again") from error
    if type(version) is not int or version < 1:
        raise ConfigError(f"{file} is damaged", why=f"its schema version is {shown(version)}", fix="export again")
    if version > MANIFEST_SCHEMA_VERSION:
        raise ConfigError(
            f"{file} was written by a newer edgeopt",
            why=f"its schema version is {shown(version)}, this edgeopt reads up to {MANIFEST_SCHEMA_VERSION}",
            fix="pip install --upgrade edgeopt, or export again with this version",
        )


def _outside(bundle: Path, result: TargetResult) -> ConfigError:
    path = result.artifact.path if result.artifact else ""
    return ConfigError(
        f"the manifest of {bundle} is not used", why=f"it names a path outside the bundle: {path!r}", fix="get the bundle again"
    )
