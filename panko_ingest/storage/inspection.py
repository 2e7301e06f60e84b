"""What can be wrong with a store that works: the server's settings, collations, ids that run out."""

import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from panko_ingest.findings import Finding
from panko_ingest.storage import schema
from panko_ingest.storage.engine import read_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.tables import TRAIT_TABLES, Base, Event

HEADROOM = 0.5
"""Share of an id column's range from which on we warn."""

MAX_SKEW = 2.0
"""Seconds that clocks may differ."""

_CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))",
}

_INT32, _INT64 = 2**31 - 1, 2**63 - 1


def check(engine: sa.Engine) -> list[Finding]:
    """Return what was found, good or bad.

    :raises StorageUnavailable: the store can't be reached.
    """
    findings = [_revision(engine)]
    with read_transaction(engine) as connection:
        findings += _SERVERS.get(connection.dialect.name, _untested)(connection)
        findings += _clock(connection)
        if findings[0].level != "failure":
            findings += _ids(connection)
            findings += _references(connection)
    return findings


def _revision(engine: sa.Engine) -> Finding:
    try:
        state = schema.schema_state(engine)
    except StorageUnavailable as error:
        if not error.operator:
            raise
        return Finding("failure", "revision", str(error))
    if state.revision == state.head:
        return Finding("ok", "revision", f"{state.revision}, the newest")
    return Finding(
        "warning",
        "revision",
        f"{state.revision}; this release works with it, but its newest is {state.head}: "
        "run `panko-ingest db sync`",
    )


def _ids(connection: sa.Connection) -> Iterator[Finding]:
    """Compare the ids in use with what their columns can hold; a redelivery storm burns ids too."""
    used = connection.scalar(sa.select(sa.func.max(Event.id))) or 0
    columns = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns("event")}
    wide = connection.dialect.name == "sqlite" or isinstance(columns["id"], sa.BigInteger)
    share = used / (_INT64 if wide else _INT32)
    text = f"{share:.0%} of the ids that event.id can hold are used"
    if share < HEADROOM:
        yield Finding("ok", "ids", text)
    else:
        yield Finding("warning", "ids", f"{text}: run `panko-ingest db sync` without --postpone-rewrites")


def _clock(connection: sa.Connection) -> Iterator[Finding]:
    """Compare the server's clock with ours: the age of an event is told by both."""
    if connection.dialect.name not in _CLOCKS:
        return
    before = time.time()
    there = float(connection.exec_driver_sql(_CLOCKS[connection.dialect.name]).scalar_one())
    skew = there - (before + time.time()) / 2
    text = f"the server's clock differs from ours by {skew:+z.1f} s"
    if abs(skew) < MAX_SKEW:
        yield Finding("ok", "clock", text)
    else:
        yield Finding("warning", "clock", f"{text}: let both follow the same time servers (chrony, NTP)")


def _references(connection: sa.Connection) -> Iterator[Finding]:
    """Look for traits that belong to no event; where the database keeps such from being, it is not asked."""
    inspector = sa.inspect(connection)
    loose = [
        table
        for table in dict.fromkeys(TRAIT_TABLES.values())
        if not inspector.get_foreign_keys(table.__tablename__)
    ]
    if not loose:
        yield Finding("ok", "references", "the database keeps traits from being without their event")
        return
    oldest, newest = connection.execute(sa.select(sa.func.min(Event.id), sa.func.max(Event.id))).one()
    found = [
        table.__tablename__
        for table in loose
        if connection.scalar(
            sa.select(table.event_id)
            .where(sa.or_(table.event_id < (oldest or 0), table.event_id > (newest or 0)))
            .limit(1)
        )
        is not None
    ]
    if found:
        yield Finding(
            "warning",
            "references",
            f"{', '.join(found)}: traits of events that are gone; run `panko-ingest expire`",
        )
    else:
        yield Finding("ok", "references", "no traits of events that are gone, as far as ids tell")


def _postgresql(connection: sa.Connection) -> Iterator[Finding]:
    yield from _settings(
        _postgresql_settings(connection),
        {
            "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
            "fsync": ("on",),
            "full_page_writes": ("on",),
        },
    )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding == "UTF8":
        yield Finding("ok", "encoding", encoding)
    else:
        yield Finding("failure", "encoding", f"{encoding}: the database must be made with ENCODING 'UTF8'")


def _postgresql_settings(connection: sa.Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql("SELECT name, setting FROM pg_settings")
    return {row[0]: row[1] for row in rows}


def _mysql(connection: sa.Connection) -> Iterator[Finding]:
    settings = {row[0]: row[1] for row in connection.exec_driver_sql("SHOW GLOBAL VARIABLES")}
    wanted = {"innodb_flush_log_at_trx_commit": ("1",), "innodb_doublewrite": ("ON", "1")}
    if settings.get("log_bin") == "ON":
        wanted["sync_binlog"] = ("1",)
    yield from _settings(settings, wanted)
    statement = sa.text(
        "SELECT DISTINCT table_collation FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name IN :tables"
    ).bindparams(sa.bindparam("tables", list(Base.metadata.tables), expanding=True))
    collations = sorted(connection.scalars(statement))
    weak = [name for name in collations if not (name.startswith("utf8mb4") and name.endswith("_bin"))]
    if weak:
        yield Finding(
            "warning",
            "collation",
            f"{', '.join(weak)}: names that differ by case alone count as one, and characters beyond the "
            "basic plane may be replaced: run `panko-ingest db sync` without --postpone-rewrites",
        )
    elif collations:
        yield Finding("ok", "collation", ", ".join(collations))


def _sqlite(connection: sa.Connection) -> Iterator[Finding]:
    answer = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if answer == "ok":
        yield Finding("ok", "file", "no damage found")
    else:
        yield Finding("failure", "file", f"{answer}: restore it from a backup")


def _untested(connection: sa.Connection) -> Iterator[Finding]:
    yield Finding("warning", "database", f"{connection.dialect.name} is untested")


def _settings(settings: dict[str, str], wanted: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    for name, values in wanted.items():
        value = settings.get(name, "unknown")
        if value in values:
            yield Finding("ok", name, value)
        else:
            yield Finding(
                "warning",
                name,
                f"{value}: a crash of the server may lose events that were acknowledged; set {values[0]}",
            )


_SERVERS: dict[str, Callable[[sa.Connection], Iterator[Finding]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "sqlite": _sqlite,
}
