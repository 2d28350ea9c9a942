"""A package index without a network: a folder of small wheels, and the environment in which pip knows no other."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ANY = "py3-none-any"


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    tag: str = ANY,
    *,
    code: str = "",
    module: str = "",
    requires: Sequence[str] = (),
    extra: Sequence[tuple[str, bytes]] = (),
) -> Path:
    """A wheel with one module (``module``, else named like the distribution) that holds ``code``."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-{tag}.whl"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{(module or name.replace('-', '_')).replace('.', '/')}.py", code)
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(metadata) + "\n\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
        for name_inside, content in extra:
            wheel.writestr(name_inside, content)
    return path


def only_index(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """pip finds wheels in ``folder`` and nowhere else."""
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        patch.delenv(variable, raising=False)
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
