"""Times that Python has not: infinity, milliseconds where seconds belong, text that is none.

Other programs leave such in our tables. They are read as the nearest limit of the calendar.
"""

import datetime
from typing import Any


class FarTime(datetime.datetime):
    """The limit of the calendar in the place of a time that is beyond it."""

    stored: Any = None
    """What the database has: a page, and a batch of expiry, go on behind that and not behind the limit."""


def nearest(stored: Any, *, late: bool) -> FarTime:
    """Return the last moment of the calendar, or the first, for what is stored."""
    time = FarTime(9999, 12, 31, 23, 59, 59, 999_999) if late else FarTime(1, 1, 1)
    time.stored = stored
    return time
