"""One line that every login shell takes alike, and a mark that tells what its start-up files print from its output."""

import secrets
from collections.abc import Callable, Sequence

# Between single quotes these mean something to csh (!, a line's end), to fish (a backslash) or to all of them.
_SPECIAL = frozenset(b"'\\!") | frozenset(range(32)) | frozenset(range(127, 256))

NOISE_BYTES = 64 * 1024


class Line:
    """``text`` runs ``command``, every argument taken literally, and prints ``mark`` on both streams before.

    A POSIX shell runs it, whatever the login shell is: ``$?`` means nothing to fish or csh. It waits for the command, so that
    a signal that ends it is told as 128 + N. Not by ``exec``, which a restricted shell refuses.
    """

    def __init__(self, command: Sequence[str]) -> None:
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        self.mark = f"{first}{second}".encode()
        """Nowhere in ``text``: a shell that shows what it runs does not print it."""
        mark = f"printf %s%s {first} {second}"
        script = f'{mark}; {mark} >&2; eval "$(printf %b "$1")"; exit $?'
        # shlex.quote leaves words like `if` and a=b bare.
        words = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in command)
        run = b"".join(map(_escaped, words.encode(errors="surrogateescape")))
        self.text = f"sh -c '{script}' sh '".encode() + run + b"'"


class Marked:
    """Hands on what comes after the mark. What came before it is in ``noise``."""

    def __init__(self, mark: bytes, take: Callable[[bytes], None]) -> None:
        self._mark, self._take = mark, take
        self.begun = False
        self.noise = b""

    def __call__(self, piece: bytes) -> None:
        """Takes the next bytes of the stream."""
        if not self.begun:
            before, mark, piece = (self.noise + piece).partition(self._mark)
            self.noise, self.begun = before[-NOISE_BYTES:], bool(mark)
        if piece:
            self._take(piece)


def _escaped(byte: int) -> bytes:
    """As ``printf %b`` reads it."""
    return b"\\0%03o" % byte if byte in _SPECIAL else bytes((byte,))
