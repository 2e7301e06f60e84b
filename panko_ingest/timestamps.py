"""Times as services write them, into naive UTC."""

import datetime
from typing import Any

import iso8601

_SECONDS, _MICROSECONDS = 19, 26  # lengths of YYYY-MM-DD HH:MM:SS, without and with microseconds
_UTC = ("Z", "+00:00", "+0000")

EARLIEST = datetime.datetime(1, 1, 1)
"""The start of the calendar: nothing is older."""


def parse(value: Any) -> datetime.datetime:
    """Return the naive UTC time that ``value`` (ISO 8601 text, or a datetime) names.

    Text without a zone is UTC. What is accepted is what Ceilometer accepts, on every Python version.

    :raises ValueError: it names none.
    """
    if value.__class__ is str:
        return _parse_common(value) or _parse_iso_8601(value)
    if isinstance(value, datetime.datetime):
        return value if value.tzinfo is None else _utc(value.replace(tzinfo=None), value.utcoffset())
    if isinstance(value, str):
        return parse(str.__str__(value))
    raise ValueError(f"{type(value).__name__} is no ISO 8601 time")


def utc_now() -> datetime.datetime:
    """Return the time, naive UTC."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def age(moment: datetime.datetime) -> float:
    """Return how many seconds ago a naive UTC time was; 0 for one that is still to come."""
    return max(0.0, (utc_now() - moment).total_seconds())


def ago(seconds: float, now: datetime.datetime | None = None) -> datetime.datetime:
    """Return the naive UTC time that was so many seconds ago; the earliest of all for too many."""
    try:
        return (now or utc_now()) - datetime.timedelta(seconds=seconds)
    except OverflowError:
        return EARLIEST


def _parse_common(text: str) -> datetime.datetime | None:
    """Parse the forms that nearly all services write, fast; None for all others.

    Only on these do fromisoformat and the library agree in every version of Python.
    """
    if len(text) != _MICROSECONDS and text.endswith(_UTC):
        text = text[: max(text.rfind("Z"), text.rfind("+"))]
    if len(text) == _MICROSECONDS:
        if text[19] != ".":
            return None
    elif len(text) != _SECONDS:
        return None
    if not (text[4] == text[7] == "-" and text[13] == text[16] == ":" and text[10] in " T"):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is None and text[11:13] != "24" else None


def _parse_iso_8601(text: str) -> datetime.datetime:
    try:
        moment = iso8601.parse_date(text)
    except iso8601.ParseError:
        raise ValueError(f"{text[:64]!r} is no ISO 8601 time") from None
    return _utc(moment.replace(tzinfo=None), moment.utcoffset())


def _utc(moment: datetime.datetime, offset: datetime.timedelta | None) -> datetime.datetime:
    try:
        return moment - (offset or datetime.timedelta(0))
    except OverflowError:
        raise ValueError(f"{moment} is beyond the calendar in UTC") from None
