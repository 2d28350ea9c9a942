"""Every failure edgeopt reports on purpose: what happened, why, and the next step. One exit code each.

    EdgeoptError
    ├── UsageError            2   the command line or a configuration file is wrong
    │   ├── ConfigError       3   edgeopt.toml or a target's TOML does not fit its schema
    │   └── UnknownName       4   no such target, format or device
    ├── MissingExtra          5   an optional dependency is not installed
    ├── ModelError           10   the model cannot be loaded
    │   ├── ReferenceNotFound 11   file.py:name or package.module:name leads nowhere
    │   ├── InputError       12   inputs do not fit the model
    │   ├── ForwardError     13   the model raised while it ran
    │   ├── CaptureError     14   torch.export refused the model
    │   └── NotFiniteError   15   NaN or infinity in weights, activations or data
    ├── CalibrationError     16   the calibration data is empty or unusable
    ├── EvaluationError      17   the user's evaluate function raised or returned no numbers
    ├── OutputError          20   a bundle, or what was measured, cannot be written
    ├── TargetFailed         30   at least one target failed; the others are written
    │   ├── WorkerCrashed    31   a worker died (signal, out of memory)
    │   ├── WorkerTimeout    32   a worker ran longer than --timeout
    │   ├── ConversionError  33   a converter refused the program
    │   │   ├── NotApplicable 35  there is nothing for the target to do: it is skipped
    │   │   ├── SchemeRefused 37  the scheme that a target prefers does not work, with --strict-scheme
    │   │   └── UnknownOperator 36 an artifact was made, but nothing here can run it to prove it
    │   └── VerificationFailed 34 an artifact does not compute what its program computes
    ├── GateFailed           40   an artifact loses more accuracy than --max-drop or --max-slice-drop allows
    ├── CompressionError     41   a technique cannot do what it was asked to
    │   ├── TrainingFailed   42   the user's training code raised, or its loss is NaN or infinite
    │   └── BudgetUnmet      43   no way was found to meet the size, latency or accuracy asked for
    └── DeviceError          50   a device, or a run on it, failed; the others' results are written
        ├── Unreachable      51   there is no connection: wrong address, switched off, no route
        ├── HostKeyRefused   52   the SSH host's key is unknown or has changed
        ├── NotAuthorized    53   the device refuses the key or the password, or has not been asked yet
        ├── LinkLost         54   the connection ended in the middle of something
        ├── DeviceTimeout    55   a run took longer than --timeout
        ├── DeviceFull       56   there is no room on the device
        ├── DeviceBusy       57   somebody else's benchmark holds the device
        ├── RunFailed        58   a run crashed, was killed or could not load the artifact
        │   └── FellBack     59   operators left the accelerator, with --fail-on-fallback
        └── BadAnswer        60   what the device sent makes no sense

``Interrupted`` (130) is not an error of the tool: the user pressed Ctrl-C.

Where several targets or devices failed, the exit code is that of the worst failure, and the numbers say nothing of that:
:data:`WORST_FIRST` does. A wrong artifact goes before one that loses too much, that before one which was not made, and last
comes what was made and is only not proven.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

# In a URL what stands between :// and the last @ is the user, as whoever types it means it: blanks, slashes and all. A colon
# there is followed by a password.
# As they are, in the wide forms that turn into them, and percent-encoded, even twice.
_COLON = "[:\uff1a\ufe55\ufe13]|%(?:25)*3[aA]"
_AT = "[@\uff20\ufe6b]|%(?:25)*40"
_COLONS, _ATS = re.compile(_COLON), re.compile(_AT)
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_MARKS = re.compile(rf"(?P<start>://)|(?P<colon>{_COLON})|(?P<at>{_AT})|(?P<blank>\s)|(?P<mark>[,;'\"(])")
_WORD_WITH_AT = re.compile(rf"\S{{0,300}}?(?:{_AT})")
_NO_PASSWORD = re.compile(r"\s|$|\d{1,5}(?:[\s'\"),;/]|$)")
"""After a colon in a sentence: its next word, or a port."""


class EdgeoptError(Exception):
    """A failure with its cause and the next step, shown to the user without a traceback, and without passwords of URLs."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = redacted_text(what), redacted_text(why), redacted_text(fix)
        super().__init__(self.message())

    def message(self) -> str:
        """The whole message: what, then why, then the next step, a line each."""
        lines = [self.what]
        if self.why:
            lines.append(f"  cause: {self.why}")
        if self.fix:
            lines.append(f"  next step: {self.fix}")
        return "\n".join(lines)


class UsageError(EdgeoptError):
    exit_code = 2


class ConfigError(UsageError):
    exit_code = 3


class UnknownName(UsageError):
    exit_code = 4


class MissingExtra(EdgeoptError):
    exit_code = 5


class ModelError(EdgeoptError):
    exit_code = 10


class ReferenceNotFound(ModelError):
    exit_code = 11


class InputError(ModelError):
    exit_code = 12


class ForwardError(ModelError):
    exit_code = 13


class CaptureError(ModelError):
    exit_code = 14


class NotFiniteError(ModelError):
    exit_code = 15


class CalibrationError(EdgeoptError):
    exit_code = 16


class EvaluationError(EdgeoptError):
    exit_code = 17


class OutputError(EdgeoptError):
    exit_code = 20


class TargetFailed(EdgeoptError):
    exit_code = 30


class WorkerCrashed(TargetFailed):
    exit_code = 31


class WorkerTimeout(TargetFailed):
    exit_code = 32


class ConversionError(TargetFailed):
    exit_code = 33


class NotApplicable(ConversionError):
    exit_code = 35


class SchemeRefused(ConversionError):
    exit_code = 37


class UnknownOperator(ConversionError):
    """An operation of a Core ML program that the evaluator does not know."""

    exit_code = 36


class VerificationFailed(TargetFailed):
    exit_code = 34


class GateFailed(EdgeoptError):
    exit_code = 40


class CompressionError(EdgeoptError):
    exit_code = 41


class TrainingFailed(CompressionError):
    exit_code = 42


class BudgetUnmet(CompressionError):
    exit_code = 43


class DeviceError(EdgeoptError):
    exit_code = 50


class Unreachable(DeviceError):
    exit_code = 51


class HostKeyRefused(DeviceError):
    exit_code = 52


class NotAuthorized(DeviceError):
    exit_code = 53


class LinkLost(DeviceError):
    exit_code = 54


class DeviceTimeout(DeviceError):
    exit_code = 55


class DeviceFull(DeviceError):
    exit_code = 56


class DeviceBusy(DeviceError):
    exit_code = 57


class RunFailed(DeviceError):
    exit_code = 58


class FellBack(RunFailed):
    exit_code = 59


class BadAnswer(DeviceError):
    exit_code = 60


INTERRUPTED_EXIT_CODE = 130
_LONGEST_NAME = 200
"""Of what is compared with known names, which takes the square of its length."""

WORST_FIRST: tuple[type[EdgeoptError], ...] = (
    # There is an artifact or an answer, and it is wrong: somebody might ship it.
    VerificationFailed, GateFailed, BadAnswer,
    # There is none: something broke, or took too long.
    WorkerCrashed, WorkerTimeout, FellBack, RunFailed, LinkLost, DeviceTimeout, EdgeoptError,
    # Something said no: a converter, a device.
    ConversionError, SchemeRefused, HostKeyRefused, NotAuthorized, Unreachable, DeviceFull, DeviceBusy, DeviceError,
    NotApplicable,
    # It is there, and nobody knows whether it is right.
    UnknownOperator,
)  # fmt: skip
"""How bad each failure of one target or device is beside others'; a class that is not listed is as bad as its nearest base."""


def worst_of(names: Iterable[str]) -> int:
    """The exit code for results that failed with the classes ``names``; 0 for none. Unknown names count as TargetFailed."""
    kinds = [_named(name) for name in names]
    return min(kinds, key=_rank).exit_code if kinds else 0


def _named(name: str) -> type[EdgeoptError]:
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, EdgeoptError) else TargetFailed


def _rank(kind: type[EdgeoptError]) -> int:
    return next(WORST_FIRST.index(base) for base in kind.__mro__ if base in WORST_FIRST)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` with the nearest of ``known``, or an empty string where none is near."""
    nearest = get_close_matches(name, sorted(set(known)), n=1) if len(name) <= _LONGEST_NAME else ()
    return f"did you mean {nearest[0]!r}?" if nearest else ""


def redacted(url: str) -> str:
    """``url`` with ``...`` in place of a password, as far as it can be told from a port."""
    scheme = _SCHEME.match(url)
    start = scheme.end() if scheme else 0
    at = _last_at(url)
    colon = _COLONS.search(url, start, at.start()) if at else None
    return f"{url[: colon.start()]}:...@{url[at.end() :]}" if at and colon else url


def redacted_text(text: str) -> str:
    """``text``, a sentence or a log, with ``...`` in place of passwords in its URLs: rather of too much than of too little."""
    if "://" not in text:
        return text
    return "".join(map(_redacted_line, text.splitlines(keepends=True)))


def _last_at(text: str) -> re.Match[str] | None:
    found = list(_ATS.finditer(text))
    return found[-1] if found else None


def _redacted_line(line: str) -> str:
    """Up to the last ``@``, which may be the password's or the host's. One pass: a device may have sent the line."""
    if "://" not in line or (last := _last_at(line)) is None:
        return line
    seen: set[str | None] = {"none"}  # since the start of the latest URL
    for found in _MARKS.finditer(line, 0, last.start()):
        kind = found.lastgroup
        nested = kind == "start" and not seen & {"none", "at", "blank", "mark"}  # ssh://pi://secret@host
        plain = kind == "colon" and not seen & {"none", "mark"} and not _NO_PASSWORD.match(line, found.end())
        if plain and "at" in seen:  # behind a host that is no part of a user's name, unless this goes on in the same word
            plain = "blank" not in seen and bool(_WORD_WITH_AT.match(line, found.end()))
        if nested or plain:
            return f"{line[: found.start()]}:...@{line[last.end() :]}"
        seen = set() if kind == "start" else seen | {kind}
    return line
