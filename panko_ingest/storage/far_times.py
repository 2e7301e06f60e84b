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


def read_as_limits(connection: Any) -> None:
    """Let a connection of psycopg read timestamps so."""
    from psycopg import DataError  # noqa: PLC0415 - not everybody has it
    from psycopg.adapt import Loader  # noqa: PLC0415
    from psycopg.pq import Format  # noqa: PLC0415

    oid = connection.adapters.types["timestamp"].oid
    strict = connection.adapters.get_loader(oid, Format.TEXT)

    class Lenient(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = strict(oid, context).load

        def load(self, data: Any) -> datetime.datetime:
            try:
                time: datetime.datetime = self._load(data)
            except DataError:
                text = bytes(data).decode()
                return nearest(text, late=not text.startswith("-") and not text.endswith("BC"))
            return time

    connection.adapters.register_loader(oid, Lenient)
