"""What there is to run: the artifacts of a bundle, or one bare file; and which of them a device is asked to run."""

from dataclasses import replace
from pathlib import Path

from edgeopt.bench.external_data import external_files, may_name_files
from edgeopt.bench.interface import check_interface
from edgeopt.bench.types import Subject
from edgeopt.bundle.bundle import Bundle
from edgeopt.core import MANIFEST_NAME, TWIN, Artifact, Format, TargetResult, TensorSpec
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.errors import ConfigError, EdgeoptError, MissingExtra, ReferenceNotFound, UnknownName, did_you_mean
from edgeopt.support.files import sha256_of, sha256_of_all, size_of
from edgeopt.support.untrusted import check_artifact, shown
from edgeopt.targets.loader import name_of

SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".tflite": "tflite", ".mlpackage": "coreml", ".pt2": "pt2"}


class Runnable:
    """An artifact with its file and its interface: ``inputs`` and ``outputs`` are its own, with scale and zero point.

    ``beside``: files in the same folder, or below it, that go with it, relative to the folder; the subject's digest is of all.
    ``failure``: why it cannot be run, where the bundle's others can; nothing is known of its file then.
    """

    def __init__(
        self, subject: Subject, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...],
        beside: tuple[str, ...] = (), failure: EdgeoptError | None = None,
    ) -> None:  # fmt: skip
        self.subject, self.path, self.inputs, self.outputs, self.beside = subject, path, inputs, outputs, beside
        self.failure = failure

    @property
    def name(self) -> str:
        """How progress and messages call it."""
        return f"{self.subject.target}/{self.subject.format}" if self.subject.target else self.path.name


def load(path: Path) -> list[Runnable]:
    """Every artifact of the bundle in the folder ``path``, or the bare artifact ``path``. What failed in export is left out.

    An artifact of a bundle that cannot be run has its failure; where that is so of all, the first one's is raised. Raises
    ReferenceNotFound, or ConfigError where the bundle or the bare file cannot be read.
    """
    if not _is_text(path):
        why, fix = "its name is not UTF-8, which results and runtimes need", "rename it, or the folder that it is in"
        raise ConfigError(f"{shown(str(path))} is not measured", why=why, fix=fix)
    if is_bundle(path):
        return _of_bundle(Bundle.load(path))
    if not path.exists():
        raise ReferenceNotFound(f"there is no {path}", fix="give a bundle's folder, or an .onnx, .tflite, .mlpackage or .pt2")
    if path.suffix not in SUFFIXES:
        why = "it has no manifest.json" if path.is_dir() else f"its name ends in {path.suffix!r}"
        raise ConfigError(f"{path} is neither a bundle nor an artifact", why=why, fix=f"known artifacts: {', '.join(SUFFIXES)}")
    return [_bare(path)]


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the file system's bytes, as Python keeps those that are no text
        return False
    return True


def is_bundle(path: Path) -> bool:
    """Whether the folder ``path`` is one. A Core ML package has a Manifest.json, the same name on disks without case."""
    return path.suffix != ".mlpackage" and (path / MANIFEST_NAME).is_file()


def selected(found: list[Runnable], targets: tuple[str, ...], device: DeviceSpec) -> list[Runnable]:
    """What ``device`` is asked to run: exactly ``targets``; without any, the device's own with their fp32 twins; else all.

    Artifacts with the same bytes are run once. Raises UnknownName for a target that the bundle does not have, ConfigError
    where it has none of the device's own.
    """
    names = {one.subject.target for one in found if one.subject.target}
    has = f"it has: {', '.join(sorted(names))}" if names else "a bare file has no targets"
    targets, own = tuple(map(name_of, targets)), tuple(map(name_of, device.targets))
    for target in targets:
        if target not in names:
            fix = did_you_mean(target, names) or ("export that target first" if names else "leave out --target")
            raise UnknownName(f"there is no target {target!r}", why=has, fix=fix)
    wanted = set(targets or own)
    chosen = [one for one in found if not wanted or not one.subject.target or one.subject.target in wanted]
    if not chosen:
        fix = "export one of these, or say with --target what to run"
        raise ConfigError(f"there is nothing for {device.name} among its targets {', '.join(own)}", why=has, fix=fix)
    if wanted and not targets:
        formats = {one.subject.format for one in chosen}
        chosen = [one for one in found if one in chosen or (one.subject.target == TWIN and one.subject.format in formats)]
    whole = [one for one in chosen if one.failure is None]  # the digest of another is what its manifest says
    unique = {(one.subject.sha256, one.subject.format): one for one in reversed(whole)}
    return [one for one in chosen if one.failure is not None or unique[one.subject.sha256, one.subject.format] is one]


def _of_bundle(bundle: Bundle) -> list[Runnable]:
    found = []
    for result in bundle.manifest.results:
        artifact = result.artifact
        if result.status not in ("ok", "unverified") or artifact is None:
            continue
        subject = Subject(
            path=artifact.path, target=result.target, format=result.format, sha256=artifact.sha256, bytes=artifact.bytes,
            scheme=result.plan.scheme.describe() if result.plan else "", calibrated=result.calibrated,
        )  # fmt: skip
        try:
            found.append(_whole(bundle, result, artifact, subject))
        except EdgeoptError as error:
            found.append(Runnable(subject, bundle.path, artifact.inputs, artifact.outputs, failure=error))
    if not found:
        raise ConfigError(f"{bundle.path} has no artifact that could be run", fix="look at its manifest: every target failed")
    failures = [one.failure for one in found if one.failure is not None]
    if len(failures) == len(found):
        raise failures[0]
    return found


def _whole(bundle: Bundle, result: TargetResult, artifact: Artifact, subject: Subject) -> Runnable:
    """The artifact of ``result``, whose file is the manifest's. Raises ConfigError, ConversionError where it is not."""
    path = bundle.artifact_path(result)
    try:
        check_artifact(path)
        size = size_of(path)
    except FileNotFoundError as error:
        raise _not_the_manifests(path, "the file is missing") from error
    except OSError as error:
        raise _not_the_manifests(path, error.strerror or str(error)) from error
    if SUFFIXES.get(path.suffix) != result.format or path.is_dir() != (result.format == "coreml"):
        raise _not_the_manifests(path, f"{'a folder' if path.is_dir() else 'a file'} of that name is no {result.format}")
    if size != artifact.bytes:  # before all of it is read
        raise _not_the_manifests(path, f"it has {size} bytes instead of {shown(artifact.bytes)}")
    if _sha256(path) != artifact.sha256:
        raise _not_the_manifests(path, "its SHA-256 is another")
    check_interface(f"the manifest's entry for {path}", artifact.inputs, artifact.outputs)
    one = Runnable(replace(subject, path=str(path)), path, artifact.inputs, artifact.outputs)
    # Where there are none, a bundle needs no ONNX library to be read.
    return _with_weights(one) if result.format == "onnx" and may_name_files(path) else one


def _not_the_manifests(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not what the manifest says", why=why, fix="export again, or copy the whole bundle")


def _bare(path: Path) -> Runnable:
    from edgeopt import registry
    from edgeopt.support.log_diversion import dropped
    from edgeopt.targets import loader

    try:
        check_artifact(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    fmt, digest = SUFFIXES[path.suffix], _sha256(path)
    try:
        with dropped():
            inputs, outputs, _ = registry.converter(fmt).inspect(path, loader.load(TWIN))
    except MissingExtra as missing:
        fix = f"{missing.fix}, or give the bundle that it is from: that says itself what its artifacts take"
        raise MissingExtra(f"{path} cannot be read here", why=missing.why, fix=fix) from missing
    check_interface(str(path), inputs, outputs)
    subject = Subject(path=str(path), target="", format=fmt, sha256=digest, bytes=size_of(path))
    return _with_weights(Runnable(subject, path, inputs, outputs))


def _with_weights(one: Runnable) -> Runnable:
    """``one`` with the files that hold weights of it, which the digest and the size then count too."""
    beside = external_files(one.path) if one.subject.format == "onnx" else ()
    if not beside:
        return one
    names = (one.path.name, *beside)
    size = sum(size_of(one.path.parent / name) for name in names)
    subject = replace(one.subject, sha256=_sha256(one.path.parent, names), bytes=size)
    return Runnable(subject, one.path, one.inputs, one.outputs, beside)


def _sha256(path: Path, names: tuple[str, ...] = ()) -> str:
    """Of the file or folder ``path``, or of its files ``names``."""
    try:
        return sha256_of_all(path, names) if names else sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    fix = "make it readable, or export again"
    return ConfigError(f"{path} cannot be read", why=error.strerror or str(error), fix=fix)
