"""Times as people write them on a command line."""

import argparse
import datetime
import re

from panko_ingest import timestamps

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(?:\d+(?:\.\d+)?\s*[smhdw][a-z]*\s*)+(?:ago)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")

HELP = "an age such as 90s, 15m, 2h, 3d or 1w, or now, today, yesterday, or an ISO date or time; all in UTC"


def moment(text: str) -> datetime.datetime:
    """Return the naive UTC time that the text names; a day stands for its beginning.

    :raises argparse.ArgumentTypeError: it names none.
    """
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    wanted = text.strip().lower()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": today, "yesterday": today - datetime.timedelta(days=1)}
    try:
        if wanted in named:
            return named[wanted]
        if _AGE.fullmatch(wanted):
            return now - age(wanted)
        return timestamps.parse(text.strip())
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write {HELP}") from error


def age(text: str) -> datetime.timedelta:
    """Return the length of time that text such as ``2h``, ``1d12h`` or ``3 days ago`` names.

    :raises argparse.ArgumentTypeError: it names none.
    """
    wanted = text.strip().lower()
    if not _AGE.fullmatch(wanted):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write for example 15m, 2h, 3d or 1w")
    lengths: dict[str, float] = {}
    for number, unit in _PART.findall(wanted):
        lengths[_UNITS[unit]] = lengths.get(_UNITS[unit], 0) + float(number)
    return datetime.timedelta(**lengths)
