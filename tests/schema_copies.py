"""Our tables in an empty database: made once on a server, and then copied, which is quicker."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.impl_sqlalchemy import Connection

Make = Callable[[Connection], None]


@dataclass
class _Copy:
    """Statements that make a schema, and the rows that it begins with."""

    statements: list[str]
    rows: list[tuple[str, list[Any]]] = field(default_factory=list)


_COPIES: dict[tuple[Make, str, int | None], _Copy | None] = {}


def make(store: Connection, how: Make = Connection.upgrade) -> None:
    """Bring the tables of a store to the newest revision, as ``how`` does it."""
    url = store.engine.url
    if url.get_backend_name() == "sqlite" or sa.inspect(store.engine).get_table_names():
        how(store)
        return
    server = (how, url.host or "", url.port)
    if copy := _COPIES.get(server):
        _paste(store.engine, copy)
        return
    how(store)
    if server not in _COPIES:
        _COPIES[server] = (
            _postgresql(url) if url.get_backend_name() == "postgresql" else _mariadb(store.engine)
        )


def _paste(engine: sa.Engine, copy: _Copy) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in copy.statements:
            connection.exec_driver_sql(statement)
        for statement, rows in copy.rows:
            connection.exec_driver_sql(statement, rows)
        connection.invalidate()  # what the statements have set is for them alone


def _postgresql(url: sa.URL) -> _Copy | None:
    program = shutil.which("pg_dump")
    if program is None:
        return None
    plain = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
    dumped = subprocess.run(
        [program, "--inserts", "--dbname", plain], check=False, capture_output=True, text=True
    )
    if dumped.returncode:  # such as the server's being newer
        return None
    # Newer ones add commands of psql's.
    lines = (line for line in dumped.stdout.splitlines() if not line.startswith("\\"))
    return _Copy(["\n".join(lines)])


def _mariadb(engine: sa.Engine) -> _Copy:
    copy = _Copy(["SET foreign_key_checks = 0"])
    with engine.connect() as connection:
        for table in sa.inspect(engine).get_table_names():
            copy.statements.append(connection.exec_driver_sql(f"SHOW CREATE TABLE `{table}`").one()[1])
            if rows := [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM `{table}`")]:
                values = ", ".join(["%s"] * len(rows[0]))
                copy.rows.append((f"INSERT INTO `{table}` VALUES ({values})", rows))
    return copy
