"""Lists of events that commands show."""

import datetime
import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from panko_ingest import storage, timestamps
from panko_ingest.errors import ConfigError
from panko_ingest.storage.models import Event

_PLACE = operator.itemgetter(0)
_LATEST = datetime.datetime(datetime.MAXYEAR, 12, 31, 23, 59, 59, 999999)


def get(
    connection: storage.Connection, event_filter: storage.EventFilter, pagination: Mapping[str, Any]
) -> Iterable[Event]:
    """Return events as ``Connection.get_events`` does.

    :raises ConfigError: the filter or the pagination makes no sense.
    :raises StorageUnavailable: the store can't be read.
    """
    try:
        return connection.get_events(event_filter, pagination)
    except storage.StorageError as error:
        raise ConfigError(str(error)) from error


def timeline(
    connection: storage.Connection,
    traits: Sequence[str],
    value: str,
    limit: int | None = None,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
) -> Iterator[Event]:
    """Return the events of which one of some traits has a value, each once, the oldest first.

    :param limit: at most so many; None for all.
    :raises ConfigError: that makes no sense.
    :raises StorageUnavailable: the store can't be read.
    """
    lists = [
        get(
            connection,
            storage.EventFilter(since, until, traits_filter=[{"key": key, "string": value}]),
            {"limit": limit},
        )
        for key in traits
    ]
    merged = heapq.merge(*map(_placed, lists), key=_PLACE)
    return itertools.islice(_each_once(merged), limit)


def _placed(events: Iterable[Event]) -> Iterator[tuple[datetime.datetime, Event]]:
    """Yield events behind their times; those of adopted tables that have none stay first, or last."""
    without_one = timestamps.EARLIEST
    for event in events:
        if event.generated:
            without_one = _LATEST
        yield event.generated or without_one, event


def _each_once(placed: Iterable[tuple[datetime.datetime, Event]]) -> Iterator[Event]:
    timeless: set[str] = set()
    # Within a moment, each database sorts message_ids in an order of its own.
    for _, same in itertools.groupby(placed, _PLACE):
        for identity, event in {_identity(event): event for _, event in same}.items():
            if event.generated or identity not in timeless:
                yield event
            if not event.generated:
                timeless.add(identity)


def _identity(event: Event) -> str:
    """Return what tells an event from others of its moment; one of adopted tables may have no message_id."""
    return str(event.message_id) if event.message_id else repr(event)
