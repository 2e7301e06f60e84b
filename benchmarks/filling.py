"""Many stored events in little time: some are recorded, the database makes copies of them."""

import dataclasses
import datetime
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from rich.progress import track

from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES

DAY = datetime.timedelta(days=1)

_LIST = 1000
_NUMBER = (1 << partitions.SEQUENCE_BITS) - 1
"""The bits of an id that are a number of the sequence, in both layouts."""
_numbers = itertools.count()

# Rows are known to refer to what is there; nor does it matter whether a filled database survives a crash.
_TRUST = {
    "postgresql": ("SET session_replication_role = replica", "SET synchronous_commit = off"),
    "mysql": ("SET foreign_key_checks = 0", "SET unique_checks = 0"),
    "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000"),
}
_SETTLE = {
    "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
    "mysql": (f"ANALYZE TABLE event, event_type, {', '.join(EVENT_TABLES[1:])}",),
    "sqlite": ("ANALYZE",),
}
_MOVED = {
    "postgresql": "generated + make_interval(secs => {seconds})",
    "mysql": "`generated` + {seconds}",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', generated, '+{seconds} seconds')",
}
_ANOTHER_NAME = {
    "postgresql": "md5(message_id || '{name}')",
    "mysql": "md5(concat(message_id, '{name}'))",
    "sqlite": "lower(hex(randomblob(16)))",
}


def renamed(sample: Sequence[Event], count: int, moments: Iterator[datetime.datetime]) -> list[Event]:
    """Return so many events of the sample, with message_ids that nobody had and these times."""
    start = next(_numbers) * count
    chosen = itertools.islice(itertools.cycle(sample), start % len(sample), start % len(sample) + count)
    return [
        dataclasses.replace(
            event, message_id=hashlib.md5(f"{count} {number}".encode()).hexdigest(), generated=next(moments)
        )
        for number, event in enumerate(chosen, start)
    ]


def fill(store: Connection, sample: Sequence[Event], count: int, start: datetime.datetime) -> None:
    """Store events of one day from ``start`` on, evenly spread and in order of time."""
    base = min(count, len(sample))
    assert count % base == 0
    apart = DAY / count
    moments = (start + number * apart for number in itertools.count())
    before = _largest_id(store)
    for first in range(0, base, _LIST):
        store.record_events(renamed(sample, min(_LIST, base - first), moments))
    copies = range(1, count // base)
    _copy(store, before, [(number * base, number * base * apart) for number in copies])


def copy_days(store: Connection, days: int) -> None:
    """Store what is stored, the events of one day, again on each of the days behind it."""
    largest = _largest_id(store)
    day, count = largest >> partitions.SEQUENCE_BITS, largest & _NUMBER
    step = ((1 << partitions.SEQUENCE_BITS) if day else 0) + count
    _copy(store, 0, [(number * step, number * DAY) for number in range(1, days)])


def patient_engine(store: Connection) -> sa.Engine:
    """Return another engine of that database, whose statements may take as long as they like."""
    return make_engine(
        store.engine.url.render_as_string(hide_password=False),
        StorageSettings(statement_timeout=0, lock_timeout=0),
    )


def _copy(store: Connection, before: int, shifts: Sequence[tuple[int, datetime.timedelta]]) -> None:
    """Copy all events of ids beyond ``before``, with other ids and times."""
    engine = patient_engine(store)
    dialect = engine.dialect.name
    key = engine.dialect.identifier_preparer.quote("key")
    generated = engine.dialect.identifier_preparer.quote("generated")
    last = _largest_id(store)
    with engine.connect().execution_options(writes=True) as connection:
        driver = connection.connection.cursor()
        for statement in _TRUST[dialect]:
            driver.execute(statement)
        for by, later in track(shifts, "filling", transient=True, disable=not sys.stdout.isatty()):
            moved = _MOVED[dialect].format(seconds=later.total_seconds())
            name = _ANOTHER_NAME[dialect].format(name=f"{last} {by}")
            connection.execute(
                sa.text(
                    f"INSERT INTO event (id, message_id, {generated}, raw, event_type_id) "
                    f"SELECT id + {by}, {name}, {moved}, raw, event_type_id FROM event "
                    f"WHERE id > {before} AND id <= {last} ORDER BY id".replace(":", r"\:")
                )
            )
            for table in EVENT_TABLES[1:]:
                connection.exec_driver_sql(
                    f"INSERT INTO {table} (event_id, {key}, value) "
                    f"SELECT event_id + {by}, {key}, value FROM {table} "
                    f"WHERE event_id > {before} AND event_id <= {last} ORDER BY event_id"
                )
            connection.commit()
        if dialect == "postgresql" and shifts:
            used = (last & _NUMBER) + len(shifts) * ((last & _NUMBER) - (before & _NUMBER))
            connection.exec_driver_sql(f"SELECT setval('{partitions.SEQUENCE}', {used})")
            connection.commit()
        driver.close()
        connection.invalidate()  # nobody else shall have its settings
    engine.dispose()


def settle(store: Connection) -> None:
    """Let the database catch up with what was filled, as it would have in the course of days."""
    engine = patient_engine(store)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in _SETTLE[engine.dialect.name]:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _largest_id(store: Connection) -> int:
    with store.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM event").scalar_one())
