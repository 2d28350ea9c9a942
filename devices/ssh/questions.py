"""What OpenSSH's client asks the user: passwords, passphrases, a server's own questions, whether a host's key is right.

The client runs a program for each question (SSH_ASKPASS). Ours, a few lines, carries the question to this process over a socket
in a folder that is private, and prints the answer: an answer is in no file, no argument and no environment.
"""

import os
import re
import shlex
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.devices.ssh.config import HostSettings
from edgeopt.devices.transport import Ask
from edgeopt.errors import NotAuthorized

QUESTION_S = 5.0
"""For our own program to say its question."""
MAX_QUESTION_BYTES = 16 * 1024
_PROGRAM = """\
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(os.environ.get("SSH_ASKPASS_PROMPT", "").encode() + b"\\0" + os.fsencode(sys.argv[2] if len(sys.argv) > 2 else ""))
s.shutdown(socket.SHUT_WR)
answer = b"".join(iter(lambda: s.recv(4096), b""))
if answer[:1] != b"+":
    sys.exit(1)
os.write(1, answer[1:] + b"\\n")
"""
_PASSPHRASE = re.compile(r"Enter passphrase for (?:key )?'?(.*?)'?: ?\Z", re.DOTALL)
_PASSWORD = re.compile(r"(\S+)'s password: ?\Z")
_ASKED_BY = re.compile(r"\((\S+@\S+)\) (.*)\Z", re.DOTALL)
_HOST_KEY = re.compile(r"(authenticity of host|continue connecting \(yes/no)", re.IGNORECASE)
A_PASSWORD, ANSWERS = "a password", "answers to the server's questions"


@dataclass(slots=True)
class Answers:
    """What the user has said for one device, kept in memory: a further connection to it does not ask again.

    Codes that a server asks for by itself are good for one time, and are not kept unless it calls them a password.
    """

    ask: Ask | None
    kept: dict[str, str] = field(default_factory=dict)


class Questions:
    """Those of one attempt to connect. Use it in a ``with`` statement; the socket is for ``select``."""

    def __init__(self, folder: Path, settings: HostSettings, answers: Answers) -> None:
        self._settings, self._answers = settings, answers
        self._given: set[str] = set()
        self.tried: list[str] = []
        self.unanswered: NotAuthorized | None = None
        """Why there is no passphrase for a key."""
        self.about_key = ""
        """What the client asked about a host's key, all of its lines."""
        self.nobody = ""
        """Which server, as the client calls it, wanted a password or the like although there is nobody to ask."""
        self._program = folder / "askpass"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(str(folder / "questions"))
            self.socket.listen(4)
            self.socket.setblocking(False)
            line = shlex.join([sys.executable, "-I", "-S", "-c", _PROGRAM, str(folder / "questions")])
            self._program.touch(0o700)
            self._program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "Questions":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def environment(self) -> dict[str, str]:
        """For the client. Before OpenSSH 8.4 it asks by a program only where there is a DISPLAY, and no terminal."""
        forced = {"SSH_ASKPASS": str(self._program), "SSH_ASKPASS_REQUIRE": "force", "LC_ALL": "C"}
        return {"DISPLAY": "none"} | dict(os.environ) | forced

    def answer(self) -> None:
        """Answers one question, once the socket is readable; what ``ask`` raises passes through."""
        try:
            asking, _ = self.socket.accept()
        except OSError:
            return
        with asking:
            asking.settimeout(QUESTION_S)
            try:
                kind, _, question = _heard(asking).partition("\0")
                answer = self._answer_to(question) if kind == "" else None
                asking.sendall(b"-" if answer is None else b"+" + answer.encode(errors="surrogateescape"))
            except OSError:
                return  # the client has been ended meanwhile

    def _answer_to(self, question: str) -> str | None:
        """None refuses: so do we any host key, which the client asks about only where the configuration says nothing else."""
        if _HOST_KEY.search(question):
            self.about_key = question
            return "no"
        title, tried, keep = self._described(question)
        known = question in self._answers.kept and question not in self._given
        if not known and self._answers.ask is None and not _PASSPHRASE.match(question):
            asking = _PASSWORD.match(question) or _ASKED_BY.match(question)
            self.nobody = asking[1] if asking else "the server"
            return None
        self.tried += [tried] if tried != ANSWERS or tried not in self.tried else []
        if known:
            answer = self._answers.kept[question]
        elif self._answers.ask is None:
            return None
        else:
            try:
                answer = self._answers.ask(title)
            except NotAuthorized as error:
                if not _PASSPHRASE.match(question):
                    raise
                self.unanswered = error  # another key may do
                return None
        self._given.add(question)
        if keep:
            self._answers.kept[question] = answer
        return answer

    def _described(self, question: str) -> tuple[str, str, bool]:
        """How the user is asked, what the attempt is called where it fails, and whether the answer is good for another time."""
        if found := _PASSPHRASE.match(question):
            return f"passphrase of the key {found[1]}", f"{found[1]} (locked: no passphrase, or a wrong one)", True
        if found := _PASSWORD.match(question):
            return f"password of {self._place(found[1])}", A_PASSWORD, True
        place, text = str(self._settings), question.strip()
        if found := _ASKED_BY.match(question):
            place, text = self._place(found[1]), found[2].strip()
        return f"{place}: {text}", ANSWERS, "password" in text.lower()

    def _place(self, name: str) -> str:
        """The device with its port, or a jump host as the client calls it."""
        own = f"{self._settings.user}@{self._settings.called}".lower()
        return str(self._settings) if name.lower() == own else name


def _heard(asking: socket.socket) -> str:
    text = bytearray()
    while (piece := asking.recv(4096)) and len(text) < MAX_QUESTION_BYTES:
        text += piece
    return text.decode(errors="backslashreplace")
