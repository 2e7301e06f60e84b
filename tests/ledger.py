"""Comparing what is stored with what was published, row for row."""

import contextlib
import datetime
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks.make_load import lines
from panko_ingest import resources
from panko_ingest.converter import EventConverter
from panko_ingest.storage import tables
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests import schema_copies
from tests.bodies import decode

_TRAIT_TABLES: tuple[Any, ...] = (
    tables.TraitText,
    tables.TraitInt,
    tables.TraitFloat,
    tables.TraitDatetime,
)
_START = datetime.datetime(2024, 3, 1)

Row = tuple[str, str, int, str]


def load(count: int, seed: int = 1, start: datetime.datetime = _START) -> list[bytes]:
    """Return so many bodies of the standard load, of the day that begins at ``start``."""
    return [line.encode() for line in lines(count, seed, start, 86400)]


class Ledger:
    """The events in one database, beside those that ought to be there.

    :param definitions: event definitions that the daemon under test uses; by default ours.
    """

    def __init__(self, url: str, definitions: Path | None = None) -> None:
        self.url = url
        self.connection = Connection(url)
        schema_copies.make(self.connection)
        path = definitions or resources.path("etc", "event_definitions.yaml")
        self._converter = EventConverter.from_file(str(path))
        self._engine = self.connection.engine

    def close(self) -> None:
        """Give back the connections."""
        self.connection.close()

    @contextlib.contextmanager
    def other_writer(self) -> Iterator[sqlite3.Connection]:
        """Yield another connection to a SQLite database, which begins and ends what it is told to."""
        with contextlib.closing(
            sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        ) as other:
            yield other

    def events(self) -> int:
        """Return how many events are stored."""
        return self._count(tables.Event)

    def dead_letters(self) -> int:
        """Return how many dead letters are stored."""
        return self._count(tables.DeadLetter)

    def _count(self, table: Any) -> int:
        try:
            return self._count_once(table)
        except sqlalchemy.exc.OperationalError as error:
            if not error.connection_invalidated:
                raise
            return self._count_once(table)  # the connection was of a server that has died since

    def _count_once(self, table: Any) -> int:
        with self._engine.connect() as connection:
            query = sqlalchemy.select(sqlalchemy.func.count()).select_from(table)
            return int(connection.execute(query).scalar_one())

    def stages(self) -> dict[str, int]:
        """Return how many dead letters there are of each stage."""
        with self._engine.connect() as connection:
            return dict(Counter(connection.execute(sqlalchemy.select(tables.DeadLetter.stage)).scalars()))

    def letters(self) -> list[bytes]:
        """Return the bodies of the dead letters."""
        with self._engine.connect() as connection:
            return list(connection.execute(sqlalchemy.select(tables.DeadLetter.body)).scalars())

    def expected(self, bodies: Iterable[bytes]) -> set[Row]:
        """Return the trait rows that the bodies must become."""
        rows: set[Row] = set()
        for body in bodies:
            notification = decode(body)
            event = self._converter.to_event(notification.message, notification.priority)
            assert event is not None
            rows |= {(event.message_id, name, dtype, str(value)) for name, dtype, value in event.traits}
        return rows

    def stored(self, message_ids: tuple[str, str] | None = None) -> list[Row]:
        """Return every trait row of the database, with the message_id of its event.

        :param message_ids: the first and the last to look at.
        """
        rows: list[Row] = []
        with self._engine.connect() as connection:
            for dtype, table in enumerate(_TRAIT_TABLES, 1):
                query = sqlalchemy.select(tables.Event.message_id, table.key, table.value).join(
                    table, table.event_id == tables.Event.id
                )
                if message_ids:
                    query = query.where(tables.Event.message_id.between(*message_ids))
                rows += [(row[0], row[1], dtype, str(row[2])) for row in connection.execute(query)]
        return rows

    def assert_holds(self, bodies: Sequence[bytes]) -> None:
        """Assert that each of the bodies is stored once, with every trait, and nothing else is.

        :raises AssertionError: naming a few of the differences.
        """
        message_ids = {decode(body).message["metadata"]["message_id"] for body in bodies}
        assert self.events() == len(message_ids)
        assert_equal(self.expected(bodies), self.stored())


def assert_equal(expected: set[Row], stored: list[Row]) -> None:
    """Assert that those trait rows are stored, each once, and no others.

    :raises AssertionError: naming a few of the differences.
    """
    assert len(stored) == len(set(stored)), "a trait is stored twice"
    missing, surplus = expected - set(stored), set(stored) - expected
    assert not missing, f"{len(missing)} traits are missing, such as {sorted(missing)[:3]}"
    assert not surplus, f"{len(surplus)} traits too many, such as {sorted(surplus)[:3]}"
