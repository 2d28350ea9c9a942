"""The first hour of somebody who has no checkout: the README's commands with each extra alone, as far as that extra goes.

What is installed is the wheel; models, data and devices are their own. Whatever an extra does not bring is told as a
MissingExtra with the command that installs it, and nothing else is printed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from edgeopt.cli.app import app
from edgeopt.errors import MissingExtra
from tests import environments, newcomer
from tests.emulators.adbd import Adbd
from tests.emulators.sshd import Server, sshd

OURS = re.compile(
    r"\[ *[0-9.]+ s\] |error: |  cause: |  next step: "
    r"|(looking|fetching|sending|unpacking|importing) |(the recipe|the scan|no recipe) is "
)
"""How the lines begin that edgeopt itself writes to standard error."""


def test_every_command_of_the_readme_is_one_that_there_is() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = [arguments for title in newcomer.SECTIONS for arguments in newcomer.commands(title)]
    assert len(found) >= 10
    for arguments in found:
        command = known[arguments[0]]
        command = command.commands[arguments[1]] if arguments[0] == "devices" else command
        options = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= options, arguments


class Newcomer:
    """A folder, and an environment with one extra. ``places``: what stands on this machine for the README's devices."""

    def __init__(self, bin_folder: Path, folder: Path, places: dict[str, str], variables: dict[str, str]) -> None:
        self.folder, self._bin, self._places = folder, bin_folder, places
        self._environment = newcomer.environment(bin_folder, folder) | variables
        newcomer.settle(folder)

    def edgeopt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command, as it is typed; benchmarks are cut short."""
        typed = [self._places.get(argument, argument) for argument in arguments]
        quick = newcomer.QUICK if arguments[0] == "bench" else ()
        return self._run(str(self._bin / "edgeopt"), *typed, *quick)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """A script in the folder."""
        (self.folder / "script.py").write_text(code, encoding="utf-8")
        return self._run(str(self._bin / "python"), "script.py")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The device: an SSH server whose ``python3`` is this one, without its packages."""
    folder = tmp_path_factory.mktemp("pi")
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    with sshd(folder / "sshd", f"SetEnv HOME={folder} PATH={folder / 'bin'}:/usr/bin:/bin") as server:
        yield server


@pytest.fixture(scope="module")
def phone() -> Iterator[Adbd]:
    with Adbd() as emulated:
        yield emulated


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels of the runtimes that are installed here: what an index would give."""
    folder = tmp_path_factory.mktemp("runtimes")
    for name in ("numpy", "onnxruntime", "ai-edge-litert"):
        environments.pack_wheel(name, folder)
    return folder


@pytest.fixture(scope="module")
def settled(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path, pi: Server, phone: Adbd, runtimes: Path
) -> dict[str, Newcomer]:
    """The newcomers by extra, each made when it is first asked for."""
    places = {"ssh://pi@192.168.1.20": pi.url, "adb://R58M123ABC": f"adb://{phone.address}"}
    variables = {"EDGEOPT_SSH_CONFIG": str(pi.client_config(pi.folder / "client"))}
    variables |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(runtimes)}
    text = "".join(map(newcomer.section, newcomer.SECTIONS))
    assert all(place in text for place in places)

    class Settled(dict[str, Newcomer]):
        def __missing__(self, extra: str) -> Newcomer:
            folder = tmp_path_factory.mktemp(extra or "none")
            bin_folder = environments.make(folder / "venv", wheel, extra)
            self[extra] = Newcomer(bin_folder, folder, places, variables)
            return self[extra]

    return Settled()


def check(done: subprocess.CompletedProcess[str], lacking: set[str]) -> None:
    """It went well, or ended as the MissingExtra that it must; nothing of a library's is printed, and nothing twice."""
    shown = f"{done.args}\n{done.stdout}\n{done.stderr}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if not OURS.match(line)] == [], shown
    assert [line for line, count in Counter(lines).items() if count > 1] == [], shown
    assert "ModuleNotFoundError" not in shown
    assert done.returncode == (MissingExtra.exit_code if lacking else 0), shown
    if lacking:
        assert any(f"next step: pip install 'edgeopt[{extra}]'" in done.stderr for extra in lacking), shown


@pytest.mark.slow
@pytest.mark.parametrize("extra", newcomer.EXTRAS)
def test_the_readme_s_commands_do_what_they_say_or_name_the_extra(
    extra: str, settled: dict[str, Newcomer], request: pytest.FixtureRequest
) -> None:
    me = settled[extra]
    if extra == "devices":  # a lab's computer measures what another one has made
        shutil.copytree(request.getfixturevalue("made"), me.folder / BUNDLE)
    for title in newcomer.SECTIONS:
        for arguments in newcomer.commands(title):
            check(me.edgeopt(*arguments), newcomer.lacking(arguments, extra, me.folder))
    if extra in newcomer.FORMATS:
        made_is_what_the_extra_is_for(me, extra)
    if extra == "tflite":
        done = me.python("from data import batches, example, net\n" + newcomer.python_block("Use it"))
        assert (done.returncode, done.stdout) == (0, "portable-fp32 tflite ok \narm-xnnpack tflite ok \n"), done.stderr
    if extra == "devices":
        runs = [json.loads(path.read_bytes()) for path in me.folder.glob("runs/*/result.json")]
        (pi5,) = (run for run in runs if run["device"] == "pi5")
        assert {one["status"] for one in pi5["results"]} == {"ok"}, pi5


BUNDLE = "build/mobilenet_v2"


@pytest.mark.slow
def test_what_no_extra_alone_is_enough_for_works_with_all_of_them(settled: dict[str, Newcomer]) -> None:
    me = settled["all"]
    every = [arguments for title in ("Use it", "On devices") for arguments in newcomer.commands(title)]
    found = [one for one in every if all(newcomer.lacking(one, extra, me.folder) for extra in newcomer.EXTRAS)]
    assert {one[0] for one in found} == {"export"}
    for arguments in found:
        check(me.edgeopt(*arguments), set())


@pytest.fixture(scope="module")
def made(settled: dict[str, Newcomer]) -> Path:
    """The README's bundle of every target, made where only ``onnx`` is installed."""
    maker = settled["onnx"]
    (command,) = (arguments for arguments in newcomer.commands("Use it") if BUNDLE in arguments)
    if not (maker.folder / BUNDLE).exists():
        check(maker.edgeopt(*command), set())
    return maker.folder / BUNDLE


def made_is_what_the_extra_is_for(me: Newcomer, extra: str) -> None:
    """Every target was asked for: those in the extra's format are made, and every other is left out, with the command."""
    manifest = json.loads((me.folder / BUNDLE / "manifest.json").read_bytes())
    others = newcomer.FORMATS - {extra}
    assert {(one["format"], one["status"]) for one in manifest["results"]} == {
        (extra, "ok"),
        *((fmt, "skipped") for fmt in others),
    }
    reasons = {one["format"]: one["reason"] for one in manifest["results"]}
    assert all(f"next step: pip install 'edgeopt[{fmt}]'" in reasons[fmt] for fmt in others)


RECIPE = """
model = "examples/fashion_mnist.py:model"
max_drop = 0.9
[training]
fit = "examples/fashion_mnist.py:fit"
[[step]]
technique = "channels"
measure = "macs"
amount = 0.25
epochs = 1
[[step]]
technique = "magnitude"
sparsity = 0.3
[[step]]
technique = "cluster"
centroids = 16
min_parameters = 1
[[step]]
technique = "low-rank"
"""


@pytest.mark.slow
def test_compress_trains_and_prunes_alone_and_asks_for_the_format_that_it_exports_to(settled: dict[str, Newcomer]) -> None:
    me = settled["compress"]
    (me.folder / "alone.toml").write_text(RECIPE, encoding="utf-8")
    (me.folder / "exports.toml").write_text(f'{RECIPE}\n[export]\ntargets = ["arm-ort"]\n', encoding="utf-8")
    check(me.edgeopt("compress", "--recipe", "alone.toml", "--out", "build/alone"), set())
    assert (me.folder / "build" / "alone" / "model.pt2").is_file()
    check(me.edgeopt("compress", "--recipe", "exports.toml", "--out", "build/exports"), {"onnx"})
    assert not (me.folder / "build" / "exports").exists()  # told before anything is trained


@pytest.mark.slow
def test_a_bare_artifact_that_cannot_be_read_here_names_its_format_s_extra(settled: dict[str, Newcomer]) -> None:
    me = settled["devices"]
    (me.folder / "mine.onnx").write_bytes(b"")
    done = me.edgeopt("bench", "mine.onnx")
    check(done, {"onnx"})
    assert "mine.onnx cannot be read here" in done.stderr
