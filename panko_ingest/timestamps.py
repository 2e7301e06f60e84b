"""Times as services write them, into naive UTC."""

import datetime
import re
from typing import Any

_SECONDS, _MICROSECONDS = 19, 26  # lengths of YYYY-MM-DD HH:MM:SS, without and with microseconds
_UTC = ("Z", "+00:00", "+0000")

_ISO_8601 = re.compile(
    r"""(?P<year>\d{4})
    (?: (?: -(?P<month>\d{1,2}) | (?P<month_basic>\d{2})(?!$) )
        (?: (?: -(?P<day>\d{1,2}) | (?P<day_basic>\d{2}) )
            (?: [ T](?P<hour>\d{2}) (?: :?(?P<minute>\d{2}) )?
                (?: :?(?P<second>\d{1,2}) (?: [.,](?P<fraction>\d+) )? )?
                (?P<zone> Z | (?P<sign>[-+])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})? )?
            )?
        )?
    )?$""",
    re.VERBOSE | re.ASCII,
)


def parse(value: Any) -> datetime.datetime:
    """Return the naive UTC time that ``value`` (ISO 8601 text, or a datetime) names.

    Text without a zone is UTC. What is accepted is what Ceilometer accepts, on every Python version.

    :raises ValueError: it names none.
    """
    if value.__class__ is str:
        return _parse_common(value) or _parse_iso_8601(value)
    if isinstance(value, datetime.datetime):
        return value if value.tzinfo is None else _utc(value.replace(tzinfo=None), value.utcoffset())
    raise ValueError(f"{type(value).__name__} is no ISO 8601 time")


def age(moment: datetime.datetime) -> float:
    """Return how many seconds ago a naive UTC time was; 0 for one that is still to come."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return max(0.0, (now - moment).total_seconds())


def ago(seconds: float) -> datetime.datetime:
    """Return the naive UTC time that was so many seconds ago; the earliest of all for too many."""
    try:
        return datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(seconds=seconds)
    except OverflowError:
        return datetime.datetime(1, 1, 1)


def _parse_common(text: str) -> datetime.datetime | None:
    """Parse the forms that nearly all services write, fast; None for all others.

    Only on these do fromisoformat and the grammar above agree in every version of Python.
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
    match = _ISO_8601.match(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is no ISO 8601 time")
    part = match.groupdict(default="0")
    moment = datetime.datetime(
        int(part["year"]),
        int(match["month"] or match["month_basic"] or 1),
        int(match["day"] or match["day_basic"] or 1),
        int(part["hour"]),
        int(part["minute"]),
        int(part["second"]),
        int(part["fraction"][:6].ljust(6, "0")),
    )
    if match["sign"] is None:
        return moment
    offset = datetime.timedelta(hours=int(part["zone_hour"]), minutes=int(part["zone_minute"]))
    if offset >= datetime.timedelta(days=1):
        raise ValueError(f"{text[:64]!r} has a zone of a day or more")
    return _utc(moment, offset if match["sign"] == "+" else -offset)


def _utc(moment: datetime.datetime, offset: datetime.timedelta | None) -> datetime.datetime:
    try:
        return moment - (offset or datetime.timedelta(0))
    except OverflowError:
        raise ValueError(f"{moment} is beyond the calendar in UTC") from None
