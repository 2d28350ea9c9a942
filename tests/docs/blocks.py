"""The fenced blocks of a Markdown page, and what is done with them: files written, commands run, outputs compared.

What a block is follows from its language and its title, which the site shows above it:

    bash                          run, in the page's order, in one folder
    bash, "needs a phone"         not run here; its edgeopt commands must parse
    python, toml ..., "net.py"    written to that file
    text, "prints"                what the bash block before it prints; ... stands for anything
    text, "prints something like" the same, whatever the numbers and the marks of a doubtful time are
"""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]*)"')
_PROGRESS = re.compile(r"^\[ *[0-9.]+ s\] .*\n", re.MULTILINE)
_NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")
_OF_TIMES = re.compile(r"\b(SLOWER|slower here|NOISY|THROTTLED|COLD|LEAK)\b")
"""Marks that depend on what else this machine does."""
NEEDS, EXACT, ALIKE = "needs ", "prints", "prints something like"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: where it begins, its language, its title or "", and its text."""

    line: int
    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is a shell's and needs nothing that is not here."""
        return self.language == "bash" and not self.title.startswith(NEEDS)


def of(page: Path) -> list[Block]:
    """The blocks of ``page`` in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start()) + 1, found[1], "".join(_TITLE.findall(found[2])), found[3])
        for found in _FENCE.finditer(text)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every ``edgeopt`` command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\|\||&&|;|\$\(|>", line):
            words = shlex.split(part.strip().rstrip(")"), comments=True)
            if words[:1] == ["edgeopt"]:
                yield words[1:]


def parse(root: Any, arguments: list[str]) -> None:
    """Takes ``arguments`` as the command line ``root`` would, without running anything; raises where it would refuse them."""
    command, context = root, root.context_class(root, info_name="edgeopt")
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"there is no command {arguments[0]}"
        command = command.commands[arguments[0]]
        context, arguments = command.context_class(command, info_name=arguments[0], parent=context), arguments[1:]
    values, rest, order = command.make_parser(context).parse_args(list(arguments))
    for parameter in dict.fromkeys([*order, *command.get_params(context)]):
        if not parameter.is_eager:
            parameter.handle_parse_result(context, values, rest)
    assert not rest or hasattr(command, "commands"), f"too many arguments: {rest}"


def run(page: Path, folder: Path, environment: Mapping[str, str]) -> int:
    """Runs ``page`` in ``folder``; how many outputs were compared. Fails with the block's place where it is not as written."""
    folder.mkdir(exist_ok=True)
    printed, compared = "", 0
    for block in of(page):
        place = f"{page.name}:{block.line}"
        if block.runs:
            printed = _shell(block.text, folder, environment, place)
        elif block.language == "text" and block.title in (EXACT, ALIKE):
            compare(block.text, printed, block.title == ALIKE, place)
            compared += 1
        elif block.language != "bash" and block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    return compared


def _shell(text: str, folder: Path, environment: Mapping[str, str], place: str) -> str:
    """What the lines print, errors included, without the progress."""
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    printed = _PROGRESS.sub("", done.stdout)
    assert done.returncode == 0, f"{place} ended with {done.returncode}:\n{printed}"
    return printed


def compare(expected: str, printed: str, alike: bool, place: str) -> None:
    """Fails where ``printed`` is not what ``expected`` says, line breaks and blanks aside."""
    wanted, found = (_plain(text, alike) for text in (expected, printed))
    pattern = ".*?".join(re.escape(part) for part in wanted.split("..."))
    assert re.fullmatch(pattern, found), f"{place} says\n{expected}\nand this is printed:\n{printed}"


def _plain(text: str, alike: bool) -> str:
    if alike:
        text = _OF_TIMES.sub("", _NUMBER.sub("0", text))
    return " ".join(text.split())
