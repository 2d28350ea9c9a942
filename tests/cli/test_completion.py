"""What the Tab key offers, and that nothing of a name that somebody else chose is run by a shell."""

import os
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.cli import completion
from edgeopt.devices import devices_toml
from edgeopt.targets import loader
from tests import shells
from tests.test_imports import HEAVY

HOSTILE = (
    "$(touch pwned)", "`touch pwned`", "x;touch pwned", "x\ntouch pwned", "x y", "x'y", 'x"y', "x\\$(touch pwned)", "x\x1b[2Jy",
    "x:y", "*", "x$HOME", "x'$(touch pwned)'", 'x"$(touch pwned)"', "x|y", "x&y", "x\ty", "-x", "~", "x=y", "x#y", "x{a,b}",
    "x\u202ey", "é",
)  # fmt: skip
PLAIN = set(string.ascii_letters + string.digits + "._-")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return shells.install(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of work with devices, of which many have names that nobody should run, and files of such names."""
    work = tmp_path / "work"
    work.mkdir()
    tables = "".join(f'["{_escaped(name)}"]\nurl = "ssh://pi@host"\n' for name in ("pi5", "phone-2", *HOSTILE))
    (work / "devices.toml").write_text(tables, encoding="utf-8")
    for name in ("mine.toml", *(f"{name}.toml" for name in HOSTILE)):
        (work / name).write_text("")
    (work / "boards").mkdir()
    (work / "boards" / "one.toml").write_text("")
    (work / "recipe.toml").write_text("")
    (work / "net.onnx").write_text("")
    (work / "bundle").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return work


def _escaped(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else f"\\u{ord(c):04x}" for c in name)


def completed(words: str, environment: dict[str, str], cwd: Path) -> list[str]:
    """What bash is offered for the last of ``words``."""
    parts = words.split(" ")
    asked = {"_EDGEOPT_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(parts), "COMP_CWORD": str(len(parts) - 1)}
    done = subprocess.run(["edgeopt"], env=environment | asked, cwd=cwd, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def test_devices_are_local_and_those_with_a_name_in_both_files(tmp_path: Path, folder: Path) -> None:
    user = devices_toml.user_file()
    user.parent.mkdir(parents=True)
    user.write_text('[lab]\nurl = "ssh://pi@lab"\n')
    assert completion.devices("") == ["lab", "local", "phone-2", "pi5"]
    assert completion.devices("l") == ["lab", "local"]
    (folder / "devices.toml").write_text('[pi5]\nurl = "ssh://pi@host"\n')
    assert set(completion.devices("")) == set(devices_toml.known()), "the names that commands know"


def test_the_names_are_those_that_commands_take() -> None:
    assert completion.DEVICES_FILE == devices_toml.FILE_NAME
    assert completion._DEVICE.pattern == devices_toml._NAME.pattern
    assert completion.LOCAL == devices_toml.LOCAL


def test_targets_are_known_names_files_and_the_folders_on_the_way(folder: Path) -> None:
    assert [name for name in completion.targets("") if "/" not in name and ".toml" not in name] == list(loader.names())
    assert {"mine.toml", "recipe.toml", "boards/", "bundle/"} <= set(completion.targets(""))
    assert completion.targets("arm-o") == ["arm-ort"]
    assert completion.targets("mi") == ["mine.toml"]
    assert completion.targets("boards/") == ["boards/one.toml"]
    assert completion.targets(f"{folder}/mi") == [f"{folder}/mine.toml"]
    assert completion.targets("net") == [], "no TOML file: the shell completes what it finds"


def test_one_folder_alone_is_left_to_the_shell_which_goes_on_into_it(folder: Path) -> None:
    assert completion.targets("boa") == []


def test_a_file_whose_name_needs_quotes_is_left_to_the_shell(folder: Path) -> None:
    assert completion.targets("x;") == []
    assert completion.targets("$") == []


def test_nothing_that_a_shell_would_read_is_offered(folder: Path) -> None:
    assert set("".join(completion.devices(""))) <= PLAIN
    assert set("".join(completion.targets(""))) <= PLAIN | {"/", "é"}


@given(st.text(max_size=12))
def test_any_beginning_has_an_answer_that_begins_with_it(text: str) -> None:
    for offered in (completion.targets(text), completion.devices(text)):
        assert all(name.startswith(text) for name in offered)


@pytest.mark.parametrize(
    "content", [b"\xff", b"[", b"a = 1", b"x = " + b"[" * 5000, b"[pi5\n", b"[pi5]\n" + b"#" * (1 << 20), None]
)
def test_a_devices_file_that_cannot_be_read_costs_its_names_and_says_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    (folder / "devices.toml").unlink()
    if content is None:
        os.mkfifo(folder / "devices.toml")
    else:
        (folder / "devices.toml").write_bytes(content)
    assert completion.devices("") == ["local"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("edgeopt bench bundle --device p", ["phone-2", "pi5"]),
        ("edgeopt export net.py:m --target arm-o", ["arm-ort"]),
        ("edgeopt plan net.py:m --target arm-o", ["arm-ort"]),
        ("edgeopt advise net.py:m --target arm-o", ["arm-ort"]),
        ("edgeopt bench bundle --target mi", ["mine.toml"]),
        ("edgeopt devices add pi6 ssh://x --target arm-o", ["arm-ort"]),
        ("edgeopt targets arm-o", ["arm-ort"]),
        ("edgeopt devices setup p", ["phone-2", "pi5"]),
        ("edgeopt devices clean pi", ["pi5"]),
        ("edgeopt exp", ["export"]),
        ("edgeopt export --max", ["--max-drop", "--max-slice-drop", "--max-size"]),
        ("edgeopt bench ", []),
        ("edgeopt bench bun", []),
        ("edgeopt compress --recipe ", []),
        ("edgeopt export --config ", []),
        ("edgeopt bench 'it --device lo", []),
        ("edgeopt no-such-command --device lo", []),
    ],
)
def test_the_shell_is_told_what_fits_and_completes_files_itself_where_nothing_is_said(
    words: str, offered: list[str], environment: dict[str, str], folder: Path
) -> None:
    assert completed(words, environment, folder) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completing_imports_only_the_command_line(shell: str, environment: dict[str, str], folder: Path) -> None:
    line = "edgeopt export m --target arm-o"
    asked = {
        "_EDGEOPT_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": "4", "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    code = "import sys\nfrom edgeopt.cli.app import main\ntry: main()\nexcept SystemExit: print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | asked, cwd=folder, capture_output=True, text=True, check=True
    )
    assert "arm-ort" in done.stdout
    loaded = set(done.stdout.splitlines())
    assert not loaded.intersection(HEAVY)
    # Each key waits for what is imported here: the commands' own lines, and the names of targets.
    parts = {name.split(".")[1] for name in loaded if name.startswith("edgeopt.")}
    assert parts <= {"cli", "targets", "errors", "support"}


def test_only_the_program_s_own_help_has_the_completion_s_options(environment: dict[str, str]) -> None:
    for command, has in (([], True), (["export"], False), (["devices"], False), (["devices", "add"], False)):
        run = [sys.executable, "-m", "edgeopt.cli", *command, "--help"]
        said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
        assert ("--install-completion" in said) == has
        assert said.startswith(f"Usage: {' '.join(['edgeopt', *command])} ")


def test_an_installation_that_cannot_be_written_is_told_with_the_next_step(environment: dict[str, str]) -> None:
    Path(environment["HOME"], ".bashrc").mkdir()
    run = f"{sys.executable} -m edgeopt.cli --install-completion; echo $?"
    done = subprocess.run(["bash", "-c", run], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "20\n"
    assert "Traceback" not in done.stderr
    assert ".bashrc" in done.stderr and "--show-completion" in done.stderr


needs = {shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed") for shell in shells.START}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, where another test has imported it; nothing of it runs in the shell
@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs[shell]) for shell in shells.START])
class TestInARealShell:
    def test_devices_targets_and_files_are_completed(self, shell: str, environment: dict[str, str], folder: Path) -> None:
        keys = "edgeopt bench net\t --device pi\t --target bo\to\t"
        assert shells.typed(shell, keys, environment, folder) == [
            "bench", "net.onnx", "--device", "pi5", "--target", "boards/one.toml",
        ]  # fmt: skip
        assert shells.typed(shell, "edgeopt compress --recipe rec\t", environment, folder)[2] == "recipe.toml"

    def test_hostile_names_are_neither_run_nor_break_the_line(
        self, shell: str, environment: dict[str, str], folder: Path
    ) -> None:
        before = sorted(folder.iterdir())
        shown = shells.listed(shell, "edgeopt bench net.onnx --device \t\t", environment, folder)
        assert all(name in shown for name in ("local", "phone-2", "pi5"))
        assert "pwned" not in shown
        shells.listed(shell, "edgeopt export m --target \t\t", environment, folder)
        shells.listed(shell, "edgeopt export m --target x\t\t", environment, folder)
        typed = shells.typed(shell, "edgeopt export m --target '$(t\t", environment, folder)
        assert typed == ["export", "m", "--target", "$(touch pwned).toml"], "the shell's own completion, with its quotes"
        assert sorted(folder.iterdir()) == before
        assert "pwned" not in " ".join(os.listdir(environment["HOME"]))
