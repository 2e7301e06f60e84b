"""Names of event types into their ids, made when they are new.

New names are written in a short transaction of their own, before the batch that needs them, and in
sorted order: two workers that meet the same new names neither deadlock nor look for a row in a
snapshot that can't show it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from panko_ingest.storage.engine import write_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.tables import EventType

_ATTEMPTS = 3
_NAMES_PER_STATEMENT = 500
_LEARNED_AT_ONCE = 10_000


class EventTypes:
    """The ids of the event types met so far, kept for the life of the process."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._ids: dict[str, int] = {}

    @property
    def known(self) -> Mapping[str, int]:
        """Ids by name."""
        return self._ids

    def learn(self, connection: sa.Connection) -> None:
        """Know what is stored before the first event of each type has to wait for it."""
        statement = sa.select(EventType.desc, EventType.id).limit(_LEARNED_AT_ONCE)
        self._ids = dict(connection.execute(statement).all())

    def resolve(self, names: Iterable[str]) -> None:
        """Make names known, and the new ones stored.

        :raises StorageUnavailable: somebody deletes them as fast as we make them.
        """
        wanted = set(names)
        for _ in range(_ATTEMPTS):
            unknown = sorted(wanted - self._ids.keys())
            if not unknown:
                return
            self._read(unknown)
            absent = [name for name in unknown if name not in self._ids]
            if absent:
                self._insert(absent)
                self._read(absent)
        raise StorageUnavailable(f"event types vanish as soon as they are stored: {', '.join(unknown)}")

    def forget(self) -> None:
        """Drop what is known, because one of the ids turned out to be gone."""
        self._ids = {}

    def _read(self, names: list[str]) -> None:
        with self._engine.connect() as connection:
            for start in range(0, len(names), _NAMES_PER_STATEMENT):
                part = names[start : start + _NAMES_PER_STATEMENT]
                found = connection.execute(
                    sa.select(EventType.desc, EventType.id).where(EventType.desc.in_(part))
                ).all()
                self._ids.update((name, number) for name, number in found)
                if any(name not in part for name, _ in found):
                    self._read_one_by_one(connection, [name for name in part if name not in self._ids])

    def _read_one_by_one(self, connection: sa.Connection, names: list[str]) -> None:
        # The database may call two names the same (an old collation ignores case): its answer counts.
        for name in names:
            number = connection.scalar(sa.select(EventType.id).where(EventType.desc == name))
            if number is not None:
                self._ids[name] = number

    def _insert(self, names: list[str]) -> None:
        with write_transaction(self._engine) as connection:
            connection.execute(_insert_if_absent(connection.dialect.name), [{"desc": name} for name in names])


def _insert_if_absent(dialect: str) -> Any:
    if dialect == "postgresql":
        return postgresql.insert(EventType).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(EventType).on_conflict_do_nothing()
    if dialect == "mysql":
        return sa.insert(EventType).prefix_with("IGNORE")
    return sa.insert(EventType)
