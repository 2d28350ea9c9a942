"""Keeps third-party chatter (warnings, log lines, banners) off the terminal: it goes to a file that a person can read later."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def diverted(log: Path) -> Iterator[None]:
    """Inside, Python's warnings and what loggers would print to stdout or stderr are appended to ``log``."""
    with log.open("a", encoding="utf-8") as file, ExitStack() as stack:
        stack.enter_context(_warnings_to(file))
        stack.enter_context(_last_resort_to(file))
        stack.enter_context(_handlers_to(file))
        yield


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

    def call(logger: logging.Logger, record: logging.LogRecord) -> None:
        swapped = [h for h in logger.handlers if isinstance(h, logging.StreamHandler) and h.stream in terminal]
        parent = logger.parent
        while parent is not None and parent.parent is not None:
            swapped += [h for h in parent.handlers if isinstance(h, logging.StreamHandler) and h.stream in terminal]
            parent = parent.parent
        streams = [handler.setStream(file) for handler in swapped]
        try:
            before(logger, record)
        finally:
            for handler, stream in zip(swapped, streams, strict=True):
                handler.setStream(stream)

    logging.Logger.callHandlers = call  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        logging.Logger.callHandlers = before  # type: ignore[method-assign]
