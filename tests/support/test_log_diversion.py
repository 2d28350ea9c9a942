import io
import logging
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeopt.support.log_diversion import diverted


@contextmanager
def terminal() -> Iterator[io.StringIO]:
    """What stands for the terminal's stderr (inside the test: pytest sets its own between a fixture and its test)."""
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield sys.stderr
    finally:
        sys.stderr = before


@contextmanager
def library() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A library's logger that prints on the terminal, by the handler that its parent has too."""
    logger, parent = logging.getLogger("some_library.inner"), logging.getLogger("some_library")
    with terminal() as shown:
        handler = logging.StreamHandler(sys.stderr)
        for one in (logger, parent):
            one.addHandler(handler)
        yield logger, shown
        for one in (logger, parent):
            one.removeHandler(handler)


@pytest.mark.filterwarnings("always")
def test_warnings_go_to_the_log(tmp_path: Path) -> None:
    before = warnings.showwarning
    with terminal() as shown, warnings.catch_warnings(), diverted(tmp_path / "log"):
        warnings.warn("an old option", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: an old option" in (tmp_path / "log").read_text()
    assert shown.getvalue() == ""
    assert warnings.showwarning is before


def test_loggers_of_libraries_go_to_the_log_and_come_back(tmp_path: Path) -> None:
    with library() as (logger, shown):
        with diverted(tmp_path / "log"):
            logger.warning("a banner")
            assert shown.getvalue() == ""
        logger.warning("afterwards")
    assert (tmp_path / "log").read_text() == "a banner\n" * 2
    assert shown.getvalue() == "afterwards\n" * 2


def test_a_handler_that_a_library_sets_up_inside_is_diverted_too(tmp_path: Path) -> None:
    logger = logging.getLogger("late_library")
    with terminal() as shown, diverted(tmp_path / "log"):
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.error("a late banner")
    assert (tmp_path / "log").read_text() == "a late banner\n"
    assert shown.getvalue() == ""


def test_the_user_s_own_handlers_are_left_alone(tmp_path: Path) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("users.own")
    logger.addHandler(handler := logging.StreamHandler(stream))
    with diverted(tmp_path / "log"):
        logger.warning("kept")
    assert stream.getvalue() == "kept\n"
    assert handler.stream is stream


def test_the_log_grows_and_everything_is_put_back_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("earlier\n")
    before = logging.Logger.callHandlers, logging.lastResort
    with library() as (logger, _), pytest.raises(KeyError), diverted(tmp_path / "log"):
        logger.warning("inside")
        raise KeyError
    assert (tmp_path / "log").read_text() == "earlier\ninside\ninside\n"
    assert (logging.Logger.callHandlers, logging.lastResort) == before


def test_threads_that_log_at_the_same_time_do_not_steal_each_other_s_stream(tmp_path: Path) -> None:
    with library() as (logger, shown):
        with diverted(tmp_path / "log"), ThreadPoolExecutor(8) as pool:
            list(pool.map(logger.warning, ["line"] * 200))
        logger.warning("afterwards")
    assert (tmp_path / "log").read_text() == "line\n" * 400
    assert shown.getvalue() == "afterwards\n" * 2
