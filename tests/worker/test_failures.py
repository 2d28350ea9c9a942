"""What the user reads about a worker's end is true, and safe to print."""

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.worker.child import RAISED
from edgeopt.worker.failures import Log, crashed, plain, raised, timed_out
from edgeopt.worker.process import Ending


@given(st.text())
def test_plain_text_has_no_control_characters(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in plain(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("bell\x07 back\x08space \u202eright-to-left", "bell backspace right-to-left"),
        ("line\n\tindented é 漢", "line\n\tindented é 漢"),
    ],
)
def test_escape_sequences_are_taken_out_whole(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_the_last_lines_are_the_task_s_own_without_stack_and_progress_bars(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("an earlier task\n")
    log = Log(path)
    with path.open("ab") as file:
        file.write(b"one\r\n\ntwo  10%\rtwo 100%\n\xff\n" + RAISED.encode() + b"\nTraceback\n  File\n")
    assert log.last_lines() == "one\ntwo 100%\n\ufffd"


def test_the_last_lines_of_a_huge_log_are_found_fast(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    (tmp_path / "log").write_bytes(b"x" * 50_000_000 + b"\n" + b"last\n")
    assert log.last_lines().endswith("last")


@pytest.mark.parametrize(
    ("oom_kills", "said", "unsaid"),
    [
        (1, "for lack of memory (the kernel counted", "most likely"),
        (0, "most likely for lack of memory, by a supervisor", "counted an"),
        (None, "most likely for lack of memory (the kernel's records cannot be read)", "counted"),
    ],
)
def test_only_what_the_kernel_s_count_shows_is_said_to_be_known(
    tmp_path: Path, oom_kills: int | None, said: str, unsaid: str
) -> None:
    (tmp_path / "log").touch()
    error = crashed("convert", Ending(status=-signal.SIGKILL, cause=""), Log(tmp_path / "log"), oom_kills)
    assert said in error.why
    assert unsaid not in error.why


def test_a_signal_without_a_name_is_given_by_number(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert "signal 40" in crashed("convert", Ending(status=-40, cause=""), Log(tmp_path / "log"), 0).why


def test_a_message_names_the_log_by_where_it_will_be(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", tmp_path / "moved" / "log")
    (tmp_path / "log").write_text("its last words\n")
    found = [
        crashed("convert", Ending(status=3, cause=""), log, None),
        timed_out("convert", 1.0, log),
        raised("convert", {"type": "TypeError", "message": "zip"}, log),
    ]
    assert all(error.fix.endswith(str(tmp_path / "moved" / "log")) and "its last words" in error.why for error in found)
