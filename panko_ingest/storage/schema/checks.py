"""What can be wrong with a store that works: the server's settings, collations, ids that run out."""

import datetime
import time
from collections.abc import Iterator

import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage.database import base as databases, leases
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.models import MOST_KNOWN_TYPES
from panko_ingest.storage.schema import integrity, partitions, revisions, unfit_tables
from panko_ingest.storage.schema.missing_tables import missing_tables, unmakeable
from panko_ingest.storage.tables import (
    IDENTIFIER_KEYS,
    TRAITS,
    Base,
    DeadLetter,
    Event,
    EventType,
    TraitText,
)

HEADROOM = 0.5
"""Share of an id column's range from which on we warn."""

MAX_SKEW = 2.0
"""Seconds that clocks may differ."""

LONG_USE = 60.0
"""Seconds from which on a transaction that has the tables in use is told."""

_DELETE_UNUSED_TYPES = (
    "DELETE FROM event_type WHERE NOT EXISTS (SELECT * FROM event WHERE event_type_id = event_type.id)"
)

_MOST_COUNTED = 1000

_INT32, _INT64 = 2**31 - 1, 2**63 - 1


def check(engine: sa.Engine) -> list[Finding]:
    """Return what was found, good or bad.

    :raises StorageUnavailable: the store can't be reached.
    """
    findings = [_revision(engine)]
    with read_transaction(engine) as connection:
        if how := databases.of(connection).encryption(connection):
            findings.append(Finding(OK, "connection", how))
        findings += databases.of(connection).check(connection)
        findings += (Finding(FAILURE, "tables", text) for text in unfit_tables.unfit_tables(connection))
        findings += _clock(connection)
        findings += _obstacles(connection)
        findings += _table_users(connection)
        missing = [] if findings[0].level == FAILURE else missing_tables(connection)
        if missing:
            # A server may hide what the role has no right to.
            mend = unmakeable(connection) or "`panko-ingest db sync` makes it"
            text = f"{', '.join(missing)} is not there, or not to be seen: {mend}"
            findings.append(Finding(FAILURE, "tables", text))
        elif findings[0].level != FAILURE:
            findings += leases.check(connection)
            findings += _ids(connection)
            findings += _sequences(connection)
            findings += integrity.check(connection)
            findings += _references(connection)
            findings += _identifiers(connection)
            findings += _event_types(connection)
            findings += _far_future(connection)
    return findings


def _revision(engine: sa.Engine) -> Finding:
    try:
        state = revisions.schema_state(engine)
    except StorageUnavailable as error:
        if not error.operator:
            raise
        return Finding(FAILURE, "revision", str(error))
    if state.revision == state.head:
        return Finding(OK, "revision", f"{state.revision}, the newest")
    return Finding(
        WARNING,
        "revision",
        f"{state.revision}; this release works with it, but its newest is {state.head}: "
        "run `panko-ingest db sync`",
    )


def _obstacles(connection: sa.Connection) -> Iterator[Finding]:
    if not revisions.is_newest(connection):
        from panko_ingest.storage.schema import upgrades  # noqa: PLC0415 - alembic

        yield from (Finding(FAILURE, "adoption", text) for text in upgrades.obstacles(connection))


def _ids(connection: sa.Connection) -> Iterator[Finding]:
    """Compare the ids in use with what their columns can hold; a redelivery storm burns ids too."""
    used = connection.scalar(sa.select(sa.func.max(Event.id))) or 0
    columns = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns("event")}
    wide = databases.of(connection).integers_have_64_bits or isinstance(columns["id"], sa.BigInteger)
    share = used / (_INT64 if wide else _INT32)
    text = f"{share:.0%} of the ids that event.id can hold are used"
    if share < HEADROOM:
        yield Finding(OK, "ids", text)
    else:
        yield Finding(WARNING, "ids", f"{text}: run `panko-ingest db sync` without --postpone-rewrites")


def _sequences(connection: sa.Connection) -> Iterator[Finding]:
    """Look for sequences that a restore or a fail-over left behind their tables."""
    tables = (EventType, Event, DeadLetter)
    # Where ids lead to days, those of a publisher whose clock is ahead may have a small number.
    today = timestamps.utc_now().date()
    usual = Event.id < partitions.id_after(today) if partitions.exist(connection) else sa.true()
    largest = {
        one.__tablename__: connection.scalar(
            sa.select(sa.func.max(one.id)).where(usual if one is Event else sa.true())
        )
        or 0
        for one in tables
    }
    for statement in databases.of(connection).sequences_behind(connection, largest):
        text = f"a sequence gives ids that its table has already, and nothing can be stored: {statement}"
        yield Finding(FAILURE, "sequences", text)


def _table_users(connection: sa.Connection) -> Iterator[Finding]:
    for user in databases.of(connection).table_users(connection, LONG_USE):
        text = f"{user} has the tables in use: `db sync`, `db partition` and dropping partitions wait for it"
        yield Finding(WARNING, "locks", text)


def _clock(connection: sa.Connection) -> Iterator[Finding]:
    """Compare the server's clock with ours: the age of an event is told by both."""
    if not (now := databases.of(connection).now):
        return
    before = time.time()
    there = float(connection.exec_driver_sql(f"SELECT {now}").scalar_one())
    skew = there - (before + time.time()) / 2
    text = f"the server's clock differs from ours by {skew:+z.1f} s"
    if abs(skew) < MAX_SKEW:
        yield Finding(OK, "clock", text)
    else:
        yield Finding(WARNING, "clock", f"{text}: let both follow the same time servers (chrony, NTP)")


def _references(connection: sa.Connection) -> Iterator[Finding]:
    """Look for traits that belong to no event; where the database keeps such from being, it is not asked."""
    if off := list(integrity.references_off(connection)):
        yield from off
        return
    inspector = sa.inspect(connection)
    loose = [table for table in TRAITS if not inspector.get_foreign_keys(table.__tablename__)]
    if not loose:
        yield Finding(OK, "references", "the database keeps traits from being without their event")
        return
    # In one statement, so that an event that is committed meanwhile is there with its traits, or neither is.
    oldest, newest = (
        sa.select(sa.func.coalesce(sa.select(extreme(Event.id)).scalar_subquery(), 0)).scalar_subquery()
        for extreme in (sa.func.min, sa.func.max)
    )
    found = [
        table.__tablename__
        for table in loose
        if any(
            connection.scalar(sa.select(table.event_id).where(lost).limit(1)) is not None
            for lost in (table.event_id < oldest, table.event_id > newest)
        )
    ]
    if found:
        yield Finding(
            WARNING,
            "references",
            f"{', '.join(found)}: traits of events that are gone; run `panko-ingest expire`",
        )
    else:
        yield Finding(OK, "references", "no traits of events that are gone, as far as ids tell")


def _event_types(connection: sa.Connection) -> Iterator[Finding]:
    """Look for publishers that make types up: their names stay, for no role of ours may delete them."""
    count = connection.scalar(sa.select(sa.func.count()).select_from(EventType)) or 0
    if count > MOST_KNOWN_TYPES:
        text = (
            f"{count:,}, more than the {MOST_KNOWN_TYPES:,} that workers remember: some publisher makes them "
            "up (see `panko-ingest events types --count`; [event] types can leave it out); for names without "
            f"events: {_DELETE_UNUSED_TYPES}"
        )
        yield Finding(WARNING, "event types", text)


def _far_future(connection: sa.Connection) -> Iterator[Finding]:
    """Look for events that stay longer than they should, as the clock of their publisher was ahead."""
    tomorrow = timestamps.utc_now() + datetime.timedelta(days=1)
    late = sa.select(Event.generated, Event.message_id).where(Event.generated > tomorrow)
    last = connection.execute(late.order_by(Event.generated.desc(), Event.message_id).limit(1)).first()
    if last:
        count = connection.scalar(
            sa.select(sa.func.count()).select_from(late.limit(_MOST_COUNTED).subquery())
        )
        text = (
            f"events that were generated later than {tomorrow:%Y-%m-%d %H:%M} UTC, by a publisher whose "
            f"clock is wrong: {count:,}{' or more' if count == _MOST_COUNTED else ''}, the last one "
            f"{last.generated:%Y-%m-%d %H:%M}; they come first in lists, and their time to live begins then; "
            f"see `panko-ingest events list --since {tomorrow:%Y-%m-%dT%H:%M}`"
        )
        yield Finding(WARNING, "times", text)


def _identifiers(connection: sa.Connection) -> Iterator[Finding]:
    """Look for a partial index that an earlier release made, for fewer identifiers.

    No revision makes it anew: this release would not work any more with the one before the rewrites.
    """
    table = Base.metadata.tables[TraitText.__tablename__]
    live = {
        index["name"]: "".join(
            str(value) for key, value in index.get("dialect_options", {}).items() if key.endswith("_where")
        )
        for index in sa.inspect(connection).get_indexes(table.name)
    }
    for index in table.indexes:
        where = live.get(str(index.name), "")
        missing = [key for key in IDENTIFIER_KEYS if f"'{key}'" not in where]
        if not where or not missing:
            continue
        create = str(sa.schema.CreateIndex(index).compile(dialect=connection.dialect))
        drop = f"DROP INDEX {index.name}"
        beside = False
        if connection.dialect.name == "postgresql":
            new = f"{index.name}_new"
            create = create.replace(str(index.name), new)
            # Of partitioned tables an index can only be made so partition by partition.
            beside = not partitions.exist(connection)
            if beside:
                create, drop = (one.replace("INDEX", "INDEX CONCURRENTLY", 1) for one in (create, drop))
            mend = f"{create}; {drop}; ALTER INDEX {new} RENAME TO {index.name}"
        else:
            mend = f"{drop}; {create}"
        wait = "" if beside else " (writers wait while it is made anew)"
        text = (
            f"{index.name} does not cover {', '.join(missing)}: to look for one reads the whole table"
            f"{wait}; {mend}"
        )
        yield Finding(WARNING, "indexes", text)
