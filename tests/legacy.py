"""Databases as Panko and, before it, Ceilometer made them: tables, names and rows."""

import datetime
import hashlib
from typing import Any

import sqlalchemy as sa

SHAPES = ("panko", "panko-bigint", "ceilometer")
TABLES = ("event_type", "event", "trait_text", "trait_int", "trait_float", "trait_datetime")

_WORDS = {
    "sqlite": {"id": "INTEGER NOT NULL", "time": "DATETIME", "float": "FLOAT", "end": ")", "q": '"'},
    "postgresql": {
        "id": "SERIAL NOT NULL",
        "time": "TIMESTAMP WITHOUT TIME ZONE",
        "float": "DOUBLE PRECISION",
        "end": ")",
        "q": '"',
    },
    "mysql": {
        "id": "INTEGER NOT NULL AUTO_INCREMENT",
        "time": "DECIMAL(20, 6)",
        "float": "DOUBLE",
        "end": ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb3",
        "q": "`",
    },
}


def make(connection: sa.Connection, shape: str) -> None:
    """Make the tables of one of ``SHAPES``, with the names that each program gave on each database."""
    words = _WORDS[connection.dialect.name]
    for statement in _ceilometer(words) if shape == "ceilometer" else _panko(words, shape):
        connection.exec_driver_sql(statement)


def _panko(words: dict[str, str], shape: str) -> list[str]:
    q, end, time = words["q"], words["end"], words["time"]
    number = "BIGINT" if shape == "panko-bigint" else "INTEGER"
    statements = [
        (
            f"CREATE TABLE event_type (id {words['id']}, {q}desc{q} VARCHAR(255), PRIMARY KEY (id), "
            f"UNIQUE ({q}desc{q}){end}"
        ),
        (
            f"CREATE TABLE event (id {words['id']}, message_id VARCHAR(50), generated {time}, raw TEXT, "
            "event_type_id INTEGER, PRIMARY KEY (id), UNIQUE (message_id), "
            f"FOREIGN KEY(event_type_id) REFERENCES event_type (id){end}"
        ),
        "CREATE INDEX ix_event_message_id ON event (message_id)",
        "CREATE INDEX ix_event_type_id ON event (event_type_id)",
        "CREATE INDEX ix_event_generated ON event (generated)",
    ]
    kinds = {"text": "VARCHAR(255)", "int": number, "float": words["float"], "datetime": time}
    for name, kind in kinds.items():
        statements += [
            (
                f"CREATE TABLE trait_{name} (event_id INTEGER NOT NULL, {q}key{q} VARCHAR(255) NOT NULL, "
                f"value {kind}, PRIMARY KEY (event_id, {q}key{q}), "
                f"FOREIGN KEY(event_id) REFERENCES event (id){end}"
            ),
            f"CREATE INDEX ix_trait_{name}_event_id_key ON trait_{name} (event_id, {q}key{q})",
        ]
    return statements


def _ceilometer(words: dict[str, str]) -> list[str]:
    q, end, time = words["q"], words["end"], words["time"]
    named = "CONSTRAINT fk_event_type_id " if words["q"] == "`" else ""
    old_end = end.replace("utf8mb3", "latin1")  # its first tables had the server's default of their day
    statements = [
        (
            f"CREATE TABLE migrate_version (repository_id VARCHAR(250) NOT NULL, version INTEGER, "
            f"PRIMARY KEY (repository_id){end}"
        ),
        "INSERT INTO migrate_version VALUES ('ceilometer', 45)",
        f"CREATE TABLE meter (id {words['id']}, name VARCHAR(255) NOT NULL, PRIMARY KEY (id){end}",
        (
            f"CREATE TABLE event_type (id {words['id']}, {q}desc{q} VARCHAR(255), PRIMARY KEY (id), "
            f"UNIQUE ({q}desc{q}){end}"
        ),
        (
            f"CREATE TABLE event (id {words['id']}, message_id VARCHAR(50), event_type_id INTEGER, "
            f"generated {time}, raw TEXT, PRIMARY KEY (id), "
            f"CONSTRAINT uniq_event0message_id UNIQUE (message_id), "
            f"{named}FOREIGN KEY(event_type_id) REFERENCES event_type (id){old_end}"
        ),
        "CREATE INDEX idx_event_message_id ON event (message_id)",
        "CREATE INDEX ix_event_generated ON event (generated)",
    ]
    kinds = {"text": "VARCHAR(255)", "int": "INTEGER", "float": words["float"], "datetime": time}
    for name, kind in kinds.items():
        null = "" if name == "text" else " NOT NULL"
        statements += [
            (
                f"CREATE TABLE trait_{name} (event_id INTEGER NOT NULL, {q}key{q} VARCHAR(255) NOT NULL, "
                f"value {kind}{null}, PRIMARY KEY (event_id, {q}key{q}), "
                f"FOREIGN KEY(event_id) REFERENCES event (id){end}"
            ),
            f"CREATE INDEX ix_trait_{name}_event_id_key ON trait_{name} (event_id, {q}key{q})",
        ]
    return statements


START = datetime.datetime(2019, 4, 1, 3, 59, 59, 999_999)


def fill(connection: sa.Connection, shape: str, events: int = 200) -> None:
    """Write events with traits of every type; those that Ceilometer kept first have no raw."""
    mysql = connection.dialect.name == "mysql"

    def stamp(moment: datetime.datetime) -> Any:
        seconds = (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(microseconds=1)
        if mysql:
            return f"{int(seconds) // 1_000_000}.{int(seconds) % 1_000_000:06}"
        return moment.isoformat(" ")

    rows: dict[str, list[tuple[Any, ...]]] = {
        "event_type": [(1, "compute.instance.update"), (2, "volume.create.end"), (3, "réseau.créé")]
    }
    numbers = range(1, events + 1)
    raws = ["{}", '{"payload": {"name": "caf\\u00e9", "at": [1, 2.5, null]}}']
    when = {number: stamp(START + datetime.timedelta(minutes=7 * number)) for number in numbers}
    rows["event"] = [
        (
            number,
            f"8f7c3a1e-0000-4000-8000-{number:012}",
            when[number],
            None if shape == "ceilometer" and number < 5 else raws[number % 2],
            1 + number % 3,
        )
        for number in numbers
    ]
    rows["trait_text"] = [(number, "project_id", f"p{number % 7}") for number in numbers]
    rows["trait_text"] += [(number, "display_name", "größe ☃" if number % 2 else None) for number in numbers]
    rows["trait_int"] = [(number, "memory_mb", number % 200 * 10_000_000) for number in numbers]
    rows["trait_float"] = [(number, "load", number / 3) for number in numbers]
    rows["trait_datetime"] = [(number, "launched_at", when[number]) for number in numbers]
    key = connection.dialect.identifier_preparer.quote("key")
    columns = {
        "event_type": f"id, {connection.dialect.identifier_preparer.quote('desc')}",
        "event": "id, message_id, generated, raw, event_type_id",
    }
    for table, values in rows.items():
        names = columns.get(table, f"event_id, {key}, value")
        marks = ", ".join(f":v{index}" for index in range(len(values[0])))
        connection.execute(
            sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"),
            [{f"v{index}": value for index, value in enumerate(row)} for row in values],
        )
    if connection.dialect.name == "postgresql":
        for table in ("event_type", "event"):
            connection.exec_driver_sql(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))")


def multiply(connection: sa.Connection, events: int) -> None:
    """Copy the events that are there, with their traits, until there are so many; ids must have no gaps."""
    if connection.dialect.name == "mysql":
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
    key = connection.dialect.identifier_preparer.quote("key")
    while (there := connection.scalar(sa.text("SELECT max(id) FROM event"))) < events:
        which = {"there": there, "last": min(there, events - there)}
        connection.execute(
            sa.text(
                "INSERT INTO event (id, message_id, generated, raw, event_type_id) "
                "SELECT id + :there, concat('copy-', id + :there), generated, raw, event_type_id "
                "FROM event WHERE id <= :last"
            ),
            which,
        )
        for table in TABLES[2:]:
            connection.execute(
                sa.text(
                    f"INSERT INTO {table} (event_id, {key}, value) "
                    f"SELECT event_id + :there, {key}, value FROM {table} WHERE event_id <= :last"
                ),
                which,
            )
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT setval('event_id_seq', (SELECT max(id) FROM event))")


def forget(connection: sa.Connection, message_id: str) -> None:
    """Delete one event with its traits, and the event types that no event has."""
    (number,) = connection.scalars(
        sa.text("SELECT id FROM event WHERE message_id = :one"), {"one": message_id}
    )
    for table in TABLES[2:]:
        connection.execute(sa.text(f"DELETE FROM {table} WHERE event_id = :id"), {"id": number})
    connection.execute(sa.text("DELETE FROM event WHERE id = :id"), {"id": number})
    connection.execute(sa.text("DELETE FROM event_type WHERE id NOT IN (SELECT event_type_id FROM event)"))


def checksums(connection: sa.Connection, chunk: int = 10_000) -> dict[str, tuple[int, list[str]]]:
    """Return for each event table how many rows it has, and MD5s over all fields of its rows by chunks.

    As :func:`digests`, but the server does the work.
    """
    quote = connection.dialect.identifier_preparer.quote
    mysql = connection.dialect.name == "mysql"
    if mysql:
        connection.exec_driver_sql("SET SESSION group_concat_max_len = 1073741824")
    found = {}
    for table in TABLES:
        trait = table.startswith("trait")
        number = "event_id" if trait else "id"
        names = {
            "event_type": ["id", quote("desc")],
            "event": ["id", "message_id", quote("generated"), "COALESCE(raw, '{}')", "event_type_id"],
        }.get(table, [number, quote("key"), quote("value")])
        order = ", ".join(names[: 1 + trait])
        if mysql:
            fields = ", ".join(f"COALESCE(HEX(CONCAT({name})), '-')" for name in names)
            row = f"CONCAT_WS(' ', {fields})"
            lines = f"GROUP_CONCAT({row} ORDER BY {order} SEPARATOR ';')"
            part = f"{number} DIV {chunk}"
        else:
            row = f"ROW({', '.join(names)})::text"
            lines = f"string_agg({row}, ';' ORDER BY {order})"
            part = f"{number} / {chunk}"
        rows = connection.exec_driver_sql(
            f"SELECT count(*), md5({lines}) FROM {table} GROUP BY {part} ORDER BY {part}"
        ).all()
        found[table] = (sum(count for count, _ in rows), [checksum for _, checksum in rows])
    return found


def digests(connection: sa.Connection) -> dict[str, tuple[int, str]]:
    """Return for each event table how many rows it has, and one checksum over all their fields."""
    found = {}
    for table, selection in _selections(connection).items():
        checksum, count = hashlib.sha256(), 0
        for row in connection.execution_options(yield_per=5000).execute(selection):
            checksum.update(repr(tuple(row)).encode())
            count += 1
        found[table] = (count, checksum.hexdigest())
    return found


def rows(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the event tables as the database holds it; nothing for raw reads as ``{}``."""
    return {
        table: [dict(row._mapping) for row in connection.execute(selection)]
        for table, selection in _selections(connection).items()
    }


def _selections(connection: sa.Connection) -> dict[str, sa.TextClause]:
    selections = {}
    for table in TABLES:
        order = "1, 2" if table.startswith("trait") else "1"
        names = (
            "*"
            if not table.startswith("trait")
            else "event_id, {}, value".format(connection.dialect.identifier_preparer.quote("key"))
        )
        if table == "event":
            names = "id, message_id, generated, COALESCE(raw, '{}') AS raw, event_type_id"
        selections[table] = sa.text(f"SELECT {names} FROM {table} ORDER BY {order}")
    return selections
