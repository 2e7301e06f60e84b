"""Text that others wrote, such as tenants' names, shown so that it does nothing to terminals and logs."""

import codecs
import io
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

LONGEST_ARGUMENT = 500
_AS_IN_JSON = "panko_ingest.as_in_json"
# Of an error that lists all faults of a file, say.
_LONGEST_OBJECT = 20_000
_LONGEST_LINE, _MOST_LINES = 1000, 200
_LINES_A_MINUTE = 60
_MINUTE = 60.0
# Of what is valid in JSON text: the second set of control characters, and what turns the direction round.
_ACTIVE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with escapes, as ``\x1b``, in place of all that is not printed as a character.

    :param keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def escaped_error(error: object) -> str:
    """Return the text of an error, which may quote a server that need not be the right one."""
    return escaped(str(error), keep="\n")


def escaped_json(text: str) -> str:
    """Return JSON text that means the same, with escapes for what a terminal would obey."""
    return _ACTIVE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escape_what_it_lacks(stream: TextIO) -> None:
    r"""Have a stream write what its encoding has no characters for as JSON does: an é as ``\u00e9``."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_AS_IN_JSON)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4)), error.end


codecs.register_error(_AS_IN_JSON, _as_in_json)


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
