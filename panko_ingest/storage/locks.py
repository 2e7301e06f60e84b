"""Locks in the database, by which one process of many does a job."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa


class Lock(NamedTuple):
    """What names a lock: on PostgreSQL a number, on MySQL words."""

    number: int
    words: str


MIGRATION = Lock(0x70616E6B6F, "panko_ingest")
EXPIRY = Lock(0x70616E6B6F72, "panko_expirer")


class Holder:
    """A connection that may hold a lock."""

    def __init__(self, connection: sa.Connection, lock: Lock) -> None:
        """Use a connection that does nothing else."""
        self._postgresql = connection.dialect.name == "postgresql"
        self._connection = connection
        # The database's own on PostgreSQL; the server's on MySQL.
        self._name = str(lock.number) if self._postgresql else f"CONCAT('{lock.words}.', MD5(DATABASE()))"

    def take(self) -> bool:
        """Take the lock unless another process has it; tell whether it is ours now."""
        # By a transaction, for which a pooler keeps one session of the server; a lock of a session would
        # stay with one that others use, and never be given back. It is in nobody's way, nor in VACUUM's,
        # as it sees and writes nothing.
        statement = (
            f"SELECT pg_try_advisory_xact_lock({self._name})"
            if self._postgresql
            else f"SELECT GET_LOCK({self._name}, 0)"
        )
        taken = bool(self._connection.exec_driver_sql(statement).scalar())
        if not taken:
            self._connection.rollback()
        return taken

    def release(self) -> None:
        """Give the lock back; with its connection it is lost anyhow."""
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            if not self._postgresql:
                self._connection.exec_driver_sql(f"SELECT RELEASE_LOCK({self._name})")
            self._connection.rollback()


def exist(engine: sa.Engine) -> bool:
    """Tell whether this kind of database has such locks; on SQLite writers are alone anyhow."""
    return engine.dialect.name in {"postgresql", "mysql"}


@contextlib.contextmanager
def holder(connection: sa.Connection, lock: Lock) -> Iterator[Holder]:
    """Let a connection that does nothing else hold a lock, to the end of the block at most."""
    if connection.dialect.name != "postgresql":
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    found = Holder(connection, lock)
    try:
        yield found
    finally:
        found.release()
