"""What people install: every sub-package and data file is in it, and nothing but edgeopt."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    copy = ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"]
    packed = subprocess.run(copy, cwd=ROOT, input=files, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract"], cwd=source, input=packed, check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def expected() -> set[str]:
    """Every Python file, TOML and shell script of the package's folders, as a wheel names them."""
    own = {
        path for path in (ROOT / "edgeopt").rglob("*.py") if not {"targets", "converters", "devices"} & set(path.parts[-2:-1])
    }
    names = {path.relative_to(ROOT).as_posix() for path in own if "__pycache__" not in path.parts}
    for folder in ("targets", "converters", "devices"):
        files = [path for kind in ("*.py", "*.toml", "*.sh") for path in (ROOT / folder).rglob(kind)]
        names |= {f"edgeopt/{path.relative_to(ROOT).as_posix()}" for path in files}
    return names | {"edgeopt/py.typed"}


def test_the_wheel_holds_every_file_and_no_generic_name(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected()


def test_the_wheel_holds_the_licence(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "targets/arm-xnnpack.toml",
        "converters/onnx/converter.py",
        "devices/session/device.sh",
        "edgeopt/cli/app.py",
    } <= names


def test_an_installed_wheel_finds_its_targets(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edgeopt; from edgeopt.targets import loader\n"
        f"assert edgeopt.__file__.startswith({str(tmp_path)!r}), edgeopt.__file__\n"
        "print(*[loader.load(name).name for name in loader.names()])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "arm-xnnpack" in done.stdout.split()
