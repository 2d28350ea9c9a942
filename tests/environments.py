"""Environments that have one extra and nothing else, linked out of the packages installed here: none is fetched.

Which packages an extra brings is read from the packages' own metadata, as pip does; pip itself then installs edgeopt's wheel
there by the command that a user types, without an index: it would refuse where a requirement were missing.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_path("purelib"))
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
QUIET = {"PYTHONWARNINGS": "", "PIP_NO_INDEX": "1"}


def closure(roots: Iterable[Requirement]) -> dict[str, Distribution]:
    """Every distribution that ``roots`` need, by canonical name, as the installed packages' metadata say."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(roots)
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name)
        waiting += needs(found[name].requires or (), extras)
    return found


def needs(lines: Iterable[str], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """The requirements among ``lines`` that hold here, those of ``extras`` included."""
    for requirement in map(Requirement, lines):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def build_wheel(folder: Path) -> Path:
    """edgeopt's wheel in ``folder``, built from a copy so that nothing is left in the checkout."""
    source = folder / "source"
    source.mkdir(parents=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    copy = ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"]
    packed = subprocess.run(copy, cwd=ROOT, input=files, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract"], cwd=source, input=packed, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def make(folder: Path, wheel: Path, extra: str) -> Path:
    """A virtual environment in ``folder`` with ``wheel``, what ``extra`` brings ("" for none) and pip; its ``bin``."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
    wanted = f"edgeopt[{extra}] @ {wheel.as_uri()}" if extra else f"edgeopt @ {wheel.as_uri()}"
    (metadata,) = PathDistribution.discover(name="edgeopt", path=[str(wheel)])
    roots = needs(metadata.requires or (), extras_of(metadata, extra))
    distributions = closure([*(root for root in roots if root.name != "edgeopt"), Requirement("pip")])
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    link(distributions.values(), site)
    install = [*PIP, "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-index", wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def extras_of(metadata: Distribution, extra: str) -> set[str]:
    """``extra`` and those of edgeopt's own that it names (``edgeopt[torch]``), and so on."""
    found, waiting = set[str](), {extra} if extra else set[str]()
    while waiting:
        one = waiting.pop()
        found.add(one)
        own = [need for need in needs(metadata.requires or (), [one]) if need.name == "edgeopt"]
        waiting |= {name for need in own for name in need.extras} - found
    return found


def link(distributions: Iterable[Distribution], site: Path) -> None:
    """Puts the files of ``distributions`` into ``site``: a whole folder by one link where all of it is theirs."""
    wanted = [path for one in distributions for path in _files(one)]
    _link(SITE, site, wanted)


def _files(one: Distribution) -> list[PurePosixPath]:
    inside = [file for file in one.files or () if ".." not in file.parts]
    assert inside, f"{one.metadata['Name']} has no list of its files"
    return inside


def _link(source: Path, target: Path, wanted: list[PurePosixPath]) -> None:
    """``wanted``, relative to ``source``, below ``target``."""
    below: dict[str, list[PurePosixPath]] = {}
    for path in wanted:
        below.setdefault(path.parts[0], []).append(PurePosixPath(*path.parts[1:]))
    for name, inner in below.items():
        if inner == [PurePosixPath()] or not _foreign(source / name, inner):
            (target / name).symlink_to(source / name)
        else:
            (target / name).mkdir()
            _link(source / name, target / name, inner)


def _foreign(folder: Path, ours: list[PurePosixPath]) -> bool:
    """Whether there are files in ``folder`` that are not ours."""
    known = set(map(str, ours))
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "__pycache__" not in path.parts and name not in known:
            return True
    return False


def pack_wheel(name: str, folder: Path) -> Path:
    """The installed distribution ``name`` as the wheel that it was installed from, as far as unpacking it goes."""
    one = distribution(name)
    described = [line.partition(": ")[2] for line in (one.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    python, abi, _ = described[0].split("-")
    tag = f"{python}-{abi}-{'.'.join(line.split('-')[2] for line in described)}"
    path = folder / f"{name.replace('-', '_')}-{one.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in _files(one):
            if file.suffix != ".pyc":
                wheel.write(SITE / file, str(file))
    return path
