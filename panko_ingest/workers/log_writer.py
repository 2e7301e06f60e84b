"""The log of the daemon, which goes on though nobody reads its log: a pipe is full, a journal hangs.

A thread of each process writes the lines. Who has one waits until it is written, but for a second at most,
and not at all while that thread is stuck.
"""

import contextlib
import fcntl
import io
import logging
import os
import queue
import sys
import threading
import weakref
from typing import Any

from panko_ingest import threads

LOG = logging.getLogger(__name__)

_PATIENCE = 1.0
_MOST = 1000
"""Lines that wait to be written; more are left out, and counted."""


def install() -> None:
    """Have a thread write what the handlers there are now would write."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            logger.handlers[:] = map(_patient, logger.handlers)


def _patient(handler: logging.Handler) -> logging.Handler:
    if isinstance(handler, logging.FileHandler):
        _unbuffer_file(handler)
    elif isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stdout, sys.stderr}:
        with contextlib.suppress(io.UnsupportedOperation):  # it is none of the system's
            handler.setStream(_Unbuffered(handler.stream.fileno()))
    return handler if isinstance(handler, _Patient) else _Patient(handler)


class _Unbuffered:
    """A stream without Python's buffer, for whose lock a forked process, and the end, would wait."""

    _encoding = "utf-8"

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the number that the system has for it."""
        return self._number

    def write(self, text: str) -> None:
        """Write all of a text; at once, where the system takes it."""
        left = text.encode(self._encoding, "backslashreplace")
        while left:
            left = left[os.write(self.fileno(), left) :]

    def flush(self) -> None:
        """Return: nothing is kept back."""


class _UnbufferedFile(_Unbuffered):
    """A file that a handler has opened, for it to go on with.

    It may be closed while another thread writes to it, which then writes no more.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._encoding = stream.encoding
        self._file: io.FileIO = stream.detach().detach()  # type: ignore[attr-defined]
        flags = fcntl.fcntl(self.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(self.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)  # processes share it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def fileno(self) -> int:
        """Return the number that the system has for it.

        :raises ValueError: it is closed.
        """
        return self._file.fileno()


def _unbuffer_file(handler: logging.FileHandler) -> None:
    """Have a handler write without Python's buffer now, and whenever it opens its file anew."""

    def unbuffered(stream: Any) -> Any:
        # Another kind of stream is a foreign handler's own.
        return _UnbufferedFile(stream) if type(stream) is io.TextIOWrapper else stream

    # Not the handler itself: its file would stay open when a reload puts another one in its place.
    open_file, this = type(handler)._open, weakref.ref(handler)
    handler._open = lambda: unbuffered(open_file(this()))  # type: ignore[method-assign, arg-type]
    handler.stream = unbuffered(handler.stream)


class _Writer:
    """The thread that writes; a fork begins with a new one."""

    def __init__(self) -> None:
        self.start_over()
        threads.in_children(self, _Writer.start_over)

    def start_over(self) -> None:
        """Begin anew, without a thread."""
        # What a handler of signals interrupts may be in the middle of either.
        self._lock = threading.RLock()
        self._lines: queue.SimpleQueue[tuple[logging.Handler, logging.LogRecord, threading.Event]]
        self._lines = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stuck = False
        self._left_out = 0

    def write(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        """Have a line written; return when it is, or when that takes too long."""
        if not self._has_thread() or threading.current_thread() is self._thread:
            _emit(handler, record)
            return
        if self._lines.qsize() >= _MOST:
            with self._lock:
                self._left_out += 1
            return
        written = threading.Event()
        self._lines.put((handler, record, written))
        if not self._is_stuck and not written.wait(_PATIENCE):
            self._is_stuck = True

    def _has_thread(self) -> bool:
        with self._lock, contextlib.suppress(OSError):
            if self._thread is None or not self._thread.is_alive():
                self._thread = threads.start(self._run, "log")
            return True
        return False

    def _run(self) -> None:
        while True:
            handler, record, written = self._lines.get()
            _emit(handler, record)
            written.set()
            if self._lines.empty():
                self._is_stuck = False
                self._tell_what_is_left_out()

    def _tell_what_is_left_out(self) -> None:
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        if left_out:
            LOG.warning("The log could not be written for a while: %d lines were left out", left_out)


def write_report(text: str) -> None:
    """Write a text to standard error, as a line is written; a handler of signals may do so."""
    _writer.write(_reports, logging.LogRecord("", logging.INFO, "", 0, text, None, None))


def _emit(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Write a line; where it can't be, neither who has it nor the thread is to fail."""
    with contextlib.suppress(Exception):
        try:
            handler.emit(record)
        except OSError as error:
            _forget_file(handler)
            _STDERR.write(f"The log can't be written ({error}): {record.getMessage()}\n")
        except Exception:  # noqa: BLE001 - a handler of any library
            if (
                isinstance(handler, logging.FileHandler)
                and handler.stream is not None
                and handler.stream.closed
            ):
                _forget_file(handler)
            type(handler).handleError(handler, record)


def _raise(_record: logging.LogRecord) -> None:
    """Raise again the error that a handler is to tell of."""
    raise  # noqa: PLE0704 - called where there is one


def _forget_file(handler: logging.Handler) -> None:
    """Have a file opened anew for the next line: what is left of this one might fail for ever.

    One that was begun with the start of the daemon is gone on with.
    """
    if isinstance(handler, logging.FileHandler) and handler.stream is not None:
        stream, handler.stream = handler.stream, None
        handler.mode = "a"
        with contextlib.suppress(OSError):
            stream.close()


_STDERR = _Unbuffered(2)
_reports = logging.StreamHandler(_STDERR)
_writer = _Writer()


class _Patient(logging.Handler):
    """Hands each line to the thread."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__(handler.level)
        self._handler = handler
        # Else it tells of errors by itself, from Python 3.14 on of all, and keeps a file that always fails.
        handler.handleError = _raise  # type: ignore[method-assign, assignment]

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line that the other handler wants."""
        if self._handler.filter(record):
            _writer.write(self._handler, record)
