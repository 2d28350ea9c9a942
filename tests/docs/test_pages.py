"""The pages of docs/ whose commands are run: docs/tour.md, then docs/howto/*.md, which go on from the tour's files.

They are run as by somebody who has installed edgeopt and has nothing else.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from edgeopt.errors import INTERRUPTED_EXIT_CODE, EdgeoptError
from scripts.pages import subject
from tests import environments, newcomer
from tests.docs import blocks

DOCS = environments.ROOT / "docs"
TOUR = DOCS / "tour.md"
HOW_TO = sorted((DOCS / "howto").glob("*.md"))
EVERY = [DOCS / "index.md", TOUR, *HOW_TO]
OWN_SYNTAX = {"bash", "python", "toml", "text", "yaml"}


def name(page: Path) -> str:
    return page.stem


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a newcomer with edgeopt's wheel, every extra and scikit-learn, without an index."""
    folder = tmp_path_factory.mktemp("newcomer")
    installed = environments.make(folder / "venv", environments.build_wheel(folder / "wheel"), "examples")
    # Wide, so that no column gives way to a mark beside a time.
    wide = {"COLUMNS": "160", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return newcomer.environment(installed, folder) | wide


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> tuple[Path, int]:
    """The folder in which the tour was run, and how many of its outputs were compared."""
    folder = tmp_path_factory.mktemp("tour")
    return folder, blocks.run(TOUR, folder, variables)


@pytest.mark.slow
def test_every_block_of_the_tour_does_what_the_page_says(toured: tuple[Path, int]) -> None:
    assert toured[1] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in HOW_TO if any(block.runs for block in blocks.of(page))], ids=name)
def test_what_a_how_to_page_runs_does_what_it_says(
    page: Path, toured: tuple[Path, int], variables: dict[str, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(toured[0], tmp_path / "project")
    blocks.run(page, folder, variables)


def test_the_tour_runs_all_that_needs_no_device() -> None:
    left = [block.title for block in blocks.of(TOUR) if block.language == "bash" and not block.runs]
    assert left == ["needs a Raspberry Pi"]
    assert all(block.title for block in blocks.of(TOUR) if block.language != "bash")


def test_the_commands_that_are_not_run_need_what_no_test_has() -> None:
    left = {block.title for page in HOW_TO for block in blocks.of(page) if block.language == "bash" and not block.runs}
    assert left == {
        "needs a Raspberry Pi", "needs an Android phone", "needs devices", "needs models of yours", "needs some minutes",
        "needs the recipe's result",
    }  # fmt: skip


@pytest.mark.parametrize("page", EVERY, ids=name)
def test_every_edgeopt_command_of_a_page_parses(page: Path) -> None:
    root = subject.command()
    for block in blocks.of(page):
        for arguments in blocks.commands(block.text) if block.language == "bash" else ():
            blocks.parse(root, arguments)


def test_the_page_of_exit_codes_says_what_to_do_about_each() -> None:
    text = (DOCS / "howto" / "exit-codes.md").read_text(encoding="utf-8")
    said: list[int] = []
    for cell in re.findall(r"^\| (\d[\d, to]*) \|", text, re.MULTILINE):
        first, _, last = cell.partition(" to ")
        said += range(int(first), int(last) + 1) if last else map(int, cell.split(", "))
    kinds = [kind for kind in vars(subject.errors).values() if isinstance(kind, type) and issubclass(kind, EdgeoptError)]
    assert sorted(said) == sorted({0, INTERRUPTED_EXIT_CODE, *(kind.exit_code for kind in kinds)})


@pytest.mark.parametrize("page", EVERY, ids=name)
def test_blocks_are_of_a_language_that_is_known_here(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks.of(page)
    assert text.count("\n```") == 2 * len(found)  # else one is not seen, and not run
    assert {block.language for block in found} <= OWN_SYNTAX


@pytest.mark.parametrize(
    "arguments",
    [["exprot", "x"], ["export", "x", "--tagret", "y"], ["plan", "x", "y"], ["bench", "x", "--launches", "none"], ["bench"]],
)
def test_a_command_that_edgeopt_would_refuse_does_not_parse(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"there is no command|No such option|too many|valid integer|Missing"):
        blocks.parse(subject.command(), arguments)


def test_an_output_that_says_something_else_is_found() -> None:
    blocks.compare("size 1.5 kB ... ok\n", "size 1.5 kB\n  whatever\nok", alike=False, place="here")
    blocks.compare("12.5 ms ok", "3 ms ok SLOWER", alike=True, place="here")
    for expected, alike in (("size 1.4 kB ... ok", False), ("size 1.4 kB ... FAILED", True)):
        with pytest.raises(AssertionError, match="here says"):
            blocks.compare(expected, "size 1.5 kB whatever ok", alike=alike, place="here")


def test_a_command_that_fails_in_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('```python title="a/one.py"\nprint(1)\n```\n\n```bash\ncat a/one.py\nfalse\n```\n')
    with pytest.raises(AssertionError, match=r"page\.md:5 ended with 1:\nprint\(1\)"):
        blocks.run(page, tmp_path / "project", os.environ)
