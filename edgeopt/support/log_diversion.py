"""Keeps third-party chatter (warnings, log lines, banners) off the terminal: it goes to a file that a person can read later."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from edgeopt.support.files import writing
from edgeopt.support.surroundings import Unfailing


@contextmanager
def diverted(log: Path) -> Iterator[None]:
    """Inside, Python's warnings and what loggers would print to stdout or stderr are appended to ``log``.

    Raises OutputError where there can be no such file.
    """
    with _opened(log) as file, ExitStack() as stack:
        stack.enter_context(_warnings_to(file))
        stack.enter_context(_last_resort_to(file))
        stack.enter_context(_handlers_to(file))
        yield


def dropped() -> AbstractContextManager[None]:
    """Inside, the same goes nowhere: around imports, of which there is no log yet."""
    return diverted(Path(os.devnull))


@contextmanager
def _opened(log: Path) -> Iterator[TextIO]:
    with writing(log):
        file = Unfailing(log.open("ab"), encoding="utf-8")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _warnings_to(file: TextIO) -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], filename: str, line: int, *_: Any, **__: Any) -> None:
        file.write(warnings.formatwarning(message, category, filename, line))

    before = warnings.showwarning
    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def _last_resort_to(file: TextIO) -> Iterator[None]:
    """Loggers without a handler print through this one."""
    before = logging.lastResort
    logging.lastResort = logging.StreamHandler(file)
    try:
        yield
    finally:
        logging.lastResort = before


@contextmanager
def _handlers_to(file: TextIO) -> Iterator[None]:
    """Handlers on stdout or stderr that libraries set up, before or while this runs; the user's own on the root stay."""
    before = logging.Logger.callHandlers
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    one_at_a_time = threading.RLock()  # another thread would take the diverted stream for the handler's own

    def call(logger: logging.Logger, record: logging.LogRecord) -> None:
        with one_at_a_time:
            swapped = {h: h.stream for h in _stream_handlers(logger) if h.stream in terminal}
            for handler in swapped:
                handler.setStream(file)
            try:
                before(logger, record)
            finally:
                for handler, stream in swapped.items():
                    handler.setStream(stream)

    logging.Logger.callHandlers = call  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        logging.Logger.callHandlers = before  # type: ignore[method-assign]


def _stream_handlers(logger: logging.Logger) -> Iterator["logging.StreamHandler[Any]"]:
    """Those of ``logger`` and of the loggers above it, without the root."""
    while logger.parent is not None:
        yield from (handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler))
        logger = logger.parent
