"""Times as services write them, into naive UTC."""

import datetime
from typing import Any


def parse(value: Any) -> datetime.datetime:
    """Return the naive UTC time that ``value`` (ISO 8601 text, or a datetime) names.

    :raises ValueError: it names none.
    """
    moment = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(value)
    if moment.tzinfo is None:
        return moment
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)
