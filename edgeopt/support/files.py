"""Writing files so that an interruption leaves the old one whole, digests of files and folders, and the user's own folders."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from edgeopt.errors import OutputError
from edgeopt.support.untrusted import opened

_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space on that disk, or write to another one"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EROFS: ("the file system is read-only", "choose a folder on a disk that can be written to"),
    errno.EACCES: ("permission denied", "choose a folder that you may write to, or change its permissions"),
    errno.EPERM: ("permission denied", "choose a folder that you may write to, or change its permissions"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path, or move that file away"),
    errno.EEXIST: ("a file of that name stands in the way", "choose another path, or move that file away"),
    errno.EISDIR: ("it is a folder, not a file", "choose another path"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter path"),
    errno.ENOENT: ("the folder does not exist, or went away meanwhile", "make the folder, then run again"),
}


def config_folder() -> Path:
    """edgeopt's part of the user's configuration: ``edgeopt`` below ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    return _user_folder("XDG_CONFIG_HOME", ".config")


def cache_folder() -> Path:
    """edgeopt's part of the user's cache: ``edgeopt`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return _user_folder("XDG_CACHE_HOME", ".cache")


def _user_folder(variable: str, usual: str) -> Path:
    named = Path(os.environ.get(variable, ""))
    # The XDG base directory specification: a relative path there is to be ignored.
    return (named if named.is_absolute() else Path.home() / usual) / "edgeopt"


def output_error(path: Path, error: OSError) -> OutputError:
    """The OutputError for ``error``, met while ``path`` was written: its cause and the next step."""
    why, fix = _CAUSES.get(error.errno or 0, (error.strerror or str(error), "choose another output path"))
    return OutputError(f"cannot write {path}", why=why, fix=fix)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any OSError raised inside becomes an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def make_folder(path: Path) -> Path:
    """``path``, made with its parents where missing. Raises OutputError where that cannot be."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes ``data`` (text as UTF-8) so that ``path`` holds either its old content or all of the new, even after a crash.

    Raises OutputError where the disk is full, the folder is not writable or ``path`` is a folder.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    with writing(path):
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def copy_file(source: str | Path, destination: str | Path) -> None:
    """Copies a file's content; shares its blocks where the file system can (copy_file_range on btrfs, XFS, NFS).

    Raises OutputError where ``destination`` cannot be written.
    """
    with writing(Path(destination)), Path(source).open("rb") as read, Path(destination).open("wb") as write:
        if hasattr(os, "copy_file_range"):
            with suppress(OSError):  # not every pair of file systems can; what is left is copied below
                while os.copy_file_range(read.fileno(), write.fileno(), 1 << 30):
                    pass
        read.seek(write.seek(0, os.SEEK_END))
        shutil.copyfileobj(read, write, 1 << 20)


def copy_tree(source: Path, destination: Path) -> None:
    """Copies a file, or a folder with all below it into one that may be there, as :func:`copy_file` does; makes the parents."""
    make_folder(destination.parent)
    if not source.is_dir():
        return copy_file(source, destination)
    with writing(destination):
        shutil.copytree(source, destination, copy_function=copy_file, dirs_exist_ok=True)


def remove(path: Path) -> None:
    """A file, or a folder with all below it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the file or folder ``path`` is on the disk; without it a power cut can undo or empty a renamed file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(folder: Path) -> list[str]:
    """Names of all files (and links) below ``folder``, relative to it, with ``/``, sorted by their bytes."""
    names = [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder, onerror=_refuse)
        for name in [*files, *(f for f in folders if Path(parent, f).is_symlink())]
    ]
    return sorted(names, key=os.fsencode)


def sha256_of(path: Path) -> str:
    """SHA-256 of ``path`` in hexadecimal.

    For a folder (a Core ML ``.mlpackage``): SHA-256 of the lines ``<sha256>  <name>\\n`` of its files, names relative and
    sorted by their bytes, which is what ``sha256sum`` prints: ``(cd FOLDER && find . -type f -printf '%P\\0' | LC_ALL=C sort -z
    | xargs -0 sha256sum | sha256sum)``. Empty folders, permissions and times do not count.
    """
    return sha256_of_all(path, files_below(path)) if path.is_dir() else _file_sha256(path)


def sha256_of_all(folder: Path, names: Iterable[str]) -> str:
    """As :func:`sha256_of` for a folder, of its files ``names`` alone, in this order."""
    lines = [os.fsencode(f"{_file_sha256(folder / name)}  {name}\n") for name in names]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def size_of(path: Path) -> int:
    """Bytes of the file ``path``, or of all files below the folder ``path``."""
    if path.is_dir():
        return sum((path / name).lstat().st_size for name in files_below(path))
    return path.stat().st_size


def safe_relative(path: str) -> PurePosixPath:
    """``path`` as a relative path that stays below the folder it is joined to. Raises ValueError where it does not.

    Refused: empty, absolute, ``..``, a drive or backslash, a control character (which would break line-based lists).
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0] or not path.isprintable():
        raise ValueError(f"not a path below its folder: {path!r}")
    return PurePosixPath(path)


def _file_sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(error: OSError) -> None:
    # os.walk passes over a folder it cannot read, and a digest would silently leave its files out.
    raise error
