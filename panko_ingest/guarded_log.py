"""Lines of the log that quote what others wrote: none forges others, is too long or comes too often."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from panko_ingest.foreign_text import escaped

LONGEST_ARGUMENT = 500
# Of an error that lists all faults of a file, say.
_LONGEST_OBJECT = 20_000
_LONGEST_LINE, _MOST_LINES = 1000, 200
_LINES_A_MINUTE = 60
_MINUTE = 60.0


def _argument(value: Any) -> Any:
    if value.__class__ is str:
        return escaped(value if len(value) <= LONGEST_ARGUMENT else f"{value[:LONGEST_ARGUMENT]}...")
    if isinstance(value, int | float) or len(text := str(value)) <= _LONGEST_OBJECT:
        return value
    return f"{text[:_LONGEST_OBJECT]}..."


def _traceback(text: str) -> str:
    """Return a formatted traceback of which no line can be taken for a line of the log."""
    lines = [line[:_LONGEST_LINE] for line in text.split("\n")]
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} lines ...", *lines[-half:]]
    lines = [escaped(line) for line in lines]
    prefix, begun, _ = lines[0].partition("Traceback (most recent call last):")
    prefixed = prefix and begun  # as oslo.log does with each line
    return "\n".join(line if prefixed and line.startswith(prefix) else f"    {line}" for line in lines)


def _arguments(values: Any) -> Any:
    """Return the arguments of a line; a log in JSON shows them beside it."""
    if isinstance(values, Mapping):
        return {name: _argument(value) for name, value in values.items()}
    return tuple(map(_argument, values))


_GUARDS: dict[str, Callable[[Any], Any]] = {
    "args": _arguments,
    "exc_text": _traceback,
    "error_summary": _argument,
}


class _Record(logging.LogRecord):
    """A line of the log: text among its arguments is escaped and cut, and it forges no other line.

    Formatters set the text of its exception, which is escaped as well.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        guard = _GUARDS.get(name)
        super().__setattr__(name, guard(value) if guard and value else value)

    def getMessage(self) -> str:  # noqa: N802 - its base class calls it so
        message = str(self.msg)
        return escaped(message % self.args if self.args else message, "\n").replace("\n", "\n    ")


def guard_log() -> None:
    """Make every line that this process logs from now on one that is guarded."""
    logging.setLogRecordFactory(_Record)


class _Rate(logging.Filter):
    """Lets so many lines a minute pass, of all loggers that have it together; the next one tells the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._begun = 0.0
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line may pass."""
        now = self._clock()
        if now - self._begun >= _MINUTE or not self._count:
            if self._count > _LINES_A_MINUTE:
                left_out = self._count - _LINES_A_MINUTE
                record.msg = f"{record.msg} [{left_out} more lines about messages were left out]"
            self._begun, self._count = now, 0
        self._count += 1
        return self._count <= _LINES_A_MINUTE


_rate = _Rate()


def logger_about_messages(name: str) -> logging.Logger:
    """Return a module's logger for lines about single messages, of which all together have a rate."""
    logger = logging.getLogger(name)
    logger.addFilter(_rate)
    return logger
