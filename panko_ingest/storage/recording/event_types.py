"""Names of event types into their ids, made when they are new.

New names are written in a short transaction of their own, before the batch that needs them, and in
sorted order: two workers that meet the same new names neither deadlock nor look for a row in a
snapshot that can't show it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from panko_ingest.storage.database import base as databases, error_classes
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.database.pooling import connections_made
from panko_ingest.storage.errors import StorageConflict, StorageUnavailable
from panko_ingest.storage.models import MOST_KNOWN_TYPES
from panko_ingest.storage.tables import EventType

_ATTEMPTS = 3
_NAMES_PER_STATEMENT = 500


class EventTypes:
    """The ids of event types met lately, which are those of one server. Threads may share one."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.forget()

    def __len__(self) -> int:
        return len(self._known.ids)

    def learn(self, connection: sa.Connection) -> None:
        """Know what is stored before the first event of each type has to wait for it."""
        self.forget()
        statement = sa.select(EventType.desc, EventType.id).limit(MOST_KNOWN_TYPES)
        self._known.ids.update(connection.execute(statement).all())

    def forget(self) -> None:
        """Drop what is known, because one of the ids turned out to be gone, or may stand for another type."""
        self._known = _Known(connections_made(self._engine))

    def resolve(self, names: Iterable[str]) -> dict[str, int]:
        """Return the ids of names, of which the new ones get stored.

        :raises StorageUnavailable: somebody deletes them as fast as we make them.
        :raises sqlalchemy.exc.DBAPIError: the database refuses one of them.
        """
        if self._known.connections != connections_made(self._engine):
            # After a failover that lost the last transactions, an id may stand for another type.
            self.forget()
        wanted = set(names)
        known = self._known
        found = {name: known.ids[name] for name in wanted if name in known.ids}
        if len(found) == len(wanted):
            return found
        unknown = wanted - found.keys()
        for attempt in range(_ATTEMPTS):
            with self._engine.connect() as connection:
                found |= _read(connection, sorted(unknown))
            if absent := sorted(unknown - found.keys()):
                with write_transaction(self._engine) as connection:
                    # The second time whatever is in the way is to say so.
                    absent_only = databases.of(connection).insert_if_absent(EventType, "desc")
                    insert = sa.insert(EventType) if attempt else absent_only
                    connection.execute(insert, [{"desc": name} for name in absent])
                    # Outside of transactions a proxy may have a replica answer, which lags behind.
                    found |= _read(connection, absent)
            if not unknown - found.keys():
                self._keep(known, {name: found[name] for name in unknown})
                return found
        raise StorageUnavailable(f"event types vanish as soon as they are stored: {', '.join(absent)}")

    def raise_if_none_is_admitted(self, error: Exception) -> None:
        """Raise if a new name was refused because nobody gave us the right to add any, whatever it is.

        :raises StorageUnavailable: that is so.
        """
        with read_transaction(self._engine) as connection:
            missing = databases.of(connection).missing_policy(connection, EventType.__tablename__)
        if missing:
            raise StorageUnavailable(f"{error_classes.describe(error)} ({missing})", operator=True) from error

    def confirm(self, connection: sa.Connection, ids: Mapping[str, int]) -> dict[str, int]:
        """Return the ids that the server behind a connection has for the same names.

        :raises StorageConflict: it has not all of them.
        """
        found = _read(connection, sorted(ids))
        if found != ids:
            self.forget()
        if gone := sorted(ids.keys() - found.keys()):
            raise StorageConflict(f"event types are gone with the server that had them: {', '.join(gone)}")
        return found

    def _keep(self, known: "_Known", found: dict[str, int]) -> None:
        if len(known.ids) + len(found) > MOST_KNOWN_TYPES:
            self._known = known = _Known(known.connections)
        known.ids.update(found)


@dataclass(frozen=True, slots=True)
class _Known:
    """Replaced, and added to, but nothing is ever taken out of it: another thread may be reading."""

    connections: int
    """How many had been made by then: one that was made later may lead to another server."""
    ids: dict[str, int] = field(default_factory=dict)


def _read(connection: sa.Connection, names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(names), _NAMES_PER_STATEMENT):
        part = names[start : start + _NAMES_PER_STATEMENT]
        rows = connection.execute(
            sa.select(EventType.desc, EventType.id).where(EventType.desc.in_(part))
        ).all()
        found.update((name, number) for name, number in rows if name in part)
        if len(found) < start + len(part) and any(name not in part for name, _ in rows):
            found |= _read_one_by_one(connection, [name for name in part if name not in found])
    return found


def _read_one_by_one(connection: sa.Connection, names: list[str]) -> dict[str, int]:
    # The database may call two names the same (an old collation ignores case): its answer counts.
    answers = {
        name: connection.scalar(sa.select(EventType.id).where(EventType.desc == name)) for name in names
    }
    return {name: number for name, number in answers.items() if number is not None}
