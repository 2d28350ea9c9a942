"""A real shell at a terminal of its own: keys are typed, and what the command then gets is read from a file."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET_S = 2.0
READY = "ready-for-keys"
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
PROLOGUE = {
    "bash": "bind 'set bell-style none'; bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'",
    "zsh": "autoload -Uz compinit; compinit -u -D; unsetopt beep; LISTMAX=0",
    "fish": "true",
}


def install(folder: Path) -> dict[str, str]:
    """An environment with a home of its own and a program ``edgeopt`` that completes, or writes its words to ``words``."""
    folder.mkdir()
    program = folder / "edgeopt"
    program.write_text(
        f'#!/bin/sh\nif [ -n "$_EDGEOPT_COMPLETE" ]; then exec {sys.executable} -m edgeopt.cli; fi\n'
        f'printf "%s\\n" "$@" > {folder}/words.tmp; mv {folder}/words.tmp {folder}/words\n'
    )
    program.chmod(0o755)
    root = Path(__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CONFIG_HOME", "ENV", "BASH_ENV")}
    return kept | {
        "HOME": str(folder), "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(root), "TERM": "xterm",
        "LANG": "C.UTF-8", "PS1": "$ ", "HISTFILE": "",
    }  # fmt: skip


def script(shell: str, environment: dict[str, str]) -> str:
    """The completion script that edgeopt gives for ``shell``."""
    asked = environment | {"_EDGEOPT_COMPLETE": f"source_{shell}"}
    done = subprocess.run(["edgeopt"], env=asked, capture_output=True, text=True, check=True)
    return done.stdout


def typed(shell: str, keys: str, environment: dict[str, str], cwd: Path) -> list[str]:
    """The words that ``edgeopt`` gets when ``keys`` and Enter are typed in a shell that knows its completion."""
    words = Path(environment["HOME"], "words")
    words.unlink(missing_ok=True)
    with _terminal(shell, environment, cwd) as terminal:
        _press(terminal, keys)
        os.write(terminal, b"\n")
        _read_until(terminal, lambda shown: words.exists(), 20)
    return words.read_text().split("\n")[:-1]


def listed(shell: str, keys: str, environment: dict[str, str], cwd: Path) -> str:
    """What is on the screen after ``keys``."""
    with _terminal(shell, environment, cwd) as terminal:
        return _press(terminal, keys)


@contextmanager
def _terminal(shell: str, environment: dict[str, str], cwd: Path) -> Iterator[int]:
    script_file = Path(environment["HOME"], "completion")
    script_file.write_text(script(shell, environment))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe(START[shell][0], START[shell], environment)
    try:
        os.write(terminal, f"{PROLOGUE[shell]}; source {script_file}; echo ready-for''-keys\n".encode())
        _read_until(terminal, lambda shown: READY in shown, 30)
        yield terminal
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _press(terminal: int, keys: str) -> str:
    shown = ""
    for key in keys:
        os.write(terminal, key.encode())
        if key == "\t":
            shown += _read_until(terminal, _Quiet().after, 20)
    return shown


class _Quiet:
    """Whether a completion has come: something was shown, and then nothing for a while."""

    def __init__(self) -> None:
        self.length, self.since = 0, time.monotonic()

    def after(self, shown: str) -> bool:
        if len(shown) != self.length:
            self.length, self.since = len(shown), time.monotonic()
        return time.monotonic() - self.since > QUIET_S


def _read_until(terminal: int, enough: Callable[[str], bool], limit: float) -> str:
    shown, end = "", time.monotonic() + limit
    while not enough(shown):
        assert time.monotonic() < end, f"the shell showed only:\n{shown}"
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown
