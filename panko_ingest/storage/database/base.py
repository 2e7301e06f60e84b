"""What differs from one kind of database to the next: the interface that each module beside this one fills.

To support a database, add a module here that is named as its URLs begin, with a class ``Database`` of its
own, a module of that name in ``recording/writers``, and an entry point ``panko_ingest.storage``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL

from panko_ingest.findings import OK, WARNING, Finding
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.models import LockWait
from panko_ingest.storage.settings import StorageSettings

Code = str | int
"""What a server calls an error: a SQLSTATE or a number."""

_OPTION = "panko_ingest_database"


class Database:
    """One kind of database. As it stands: any that SQLAlchemy can talk to, by plain SQL alone."""

    driver: ClassVar[str] = ""
    """SQLAlchemy's name for the driver of URLs that name none; empty for its own choice."""

    no_other_driver: ClassVar[bool] = False
    """Whether other drivers lack what we need."""

    extra: ClassVar[str] = ""
    """What to install for our driver where it is missing."""

    has_partitions: ClassVar[bool] = False
    """Whether the partitioned layout can be made here."""

    nulls_last: ClassVar[bool] = False
    """Whether NULLs come last where it sorts upwards."""

    one_writer_at_a_time: ClassVar[bool] = False
    """Whether a transaction that writes keeps all others from writing, and can undo changes of the schema."""

    integers_have_64_bits: ClassVar[bool] = False
    """Whether each column of integers has 64 bits, whatever its type is called."""

    sorts_before_it_limits: ClassVar[bool] = False
    """Whether the planner, left alone, collects and sorts all events that have a trait for a page of few."""

    now: ClassVar[str] = ""
    """The server's clock in SQL, in seconds since 1970; empty where the server's clock is ours."""

    codes: ClassVar[Mapping[Code, ErrorClass]] = {}
    """What errors mean."""

    cannot_write_again: ClassVar[frozenset[Code]] = frozenset()
    """Errors after which a session never writes again, though it may still answer."""

    broken_reference: ClassVar[frozenset[Code]] = frozenset()
    """Errors that say that what a row refers to is not there."""

    clash: ClassVar[frozenset[Code]] = frozenset()
    """Errors that say that a unique index has a row's value already."""

    lock_wait: ClassVar[frozenset[Code]] = frozenset()
    """Errors that say that somebody else had a row or a table locked for longer than one waits."""

    not_allowed: ClassVar[frozenset[Code]] = frozenset()
    """Errors that say that the account has no right to do so."""

    def create_engine(self, url: URL, settings: StorageSettings) -> Engine:
        """Return an engine whose sessions are set up; it connects when it is first used."""
        return create_engine(url, **pool_arguments(settings))

    def read_from_any_host(self, engine: Engine) -> None:
        """Let an engine that is never written by use whichever host answers, unless it is told which."""

    def bytes_of(self, column: Any) -> Any:
        """Return in SQL how many bytes a text takes, 0 for NULL; PostgreSQL need not read it for that."""
        return self._or_none(sa.func.octet_length(column))

    @staticmethod
    def _or_none(length: Any) -> Any:
        return sa.func.coalesce(sa.type_coerce(length, sa.BigInteger), 0)

    def make_file(self, engine: Engine) -> None:
        """Make the file that the database is in, where it is absent."""

    def missing_file(self, engine: Engine) -> str:
        """Return the path of the file that the database is in where it is absent, else an empty text."""
        return ""

    def encryption(self, connection: Connection) -> str:
        """Tell whether a connection is encrypted and its server verified; empty where there is no network."""
        return ""

    def code_of(self, error: BaseException) -> Code | None:
        """Return the code of a driver's error; None for one of another database's driver."""
        return None

    def meaning_of(self, error: BaseException) -> ErrorClass | None:
        """Return what a driver's error means; None where its code does not say so."""
        code = self.code_of(error)
        return None if code is None else self.codes.get(code)

    def refuses_login(self, error: BaseException) -> bool:
        """Tell whether the server does not let us in, or has no such database."""
        return False

    def words_of(self, error: BaseException) -> str | None:
        """Return code and words of a server's error, without statement or parameters; None without a code."""
        code = self.code_of(error)
        return None if code is None else f"{code}: {error}"

    def remedy(self, error: BaseException) -> str:
        """Return what an operator has to do about an error that looks like a missing right, and is none."""
        return ""

    def is_about_event_type(self, error: BaseException) -> bool:
        """Tell whether a broken reference is an event's to its type."""
        return False

    def is_fault_of_ids(self, error: BaseException, statement: str) -> bool:
        """Tell whether a row was refused for its new id: there is such a one, or none is left."""
        return False

    def limits(self, connection: Connection) -> dict[str, Any]:
        """Return those fields of ``ColumnLimits`` that don't follow from the columns' types."""
        return {}

    def is_cluster(self, connection: Connection) -> bool:
        """Tell whether a change of a table keeps all nodes, and all others who write there, from writing."""
        return False

    def check(self, connection: Connection) -> Iterator[Finding]:
        """Tell whether the server keeps what it has committed, and whatever else shows in its settings."""
        yield Finding(WARNING, "database", f"{connection.dialect.name} is untested")

    def table_users(self, connection: Connection, seconds: float) -> Iterator[str]:
        """Yield who has the tables of events in use, in a transaction that has lasted so many seconds."""
        yield from ()

    def end_stuck_users(self, connection: Connection) -> None:
        """End sessions of ours that use the tables of events, but have no client any more."""

    def sequences_behind(self, connection: Connection, largest: Mapping[str, int]) -> Iterator[str]:
        """Yield what sets right each sequence that would give an id which is used.

        :param largest: the largest id of each table.
        """
        yield from ()

    def lock_waits(self, connection: Connection) -> Iterator[LockWait]:
        """Yield what our sessions wait for."""
        yield from ()

    def missing_rights(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Return the rights beside those on tables that our role lacks for writing to these tables."""
        return []

    def missing_rights_to_expire(self, connection: Connection) -> list[str]:
        """Return the rights beside those on tables that our role lacks for expiry."""
        return []

    def missing_policy(self, connection: Connection, table: str) -> str:
        """Return what lets our role add rows to a table where no rule admits any; empty where one may."""
        return ""

    def may_hide_events(self, connection: Connection) -> bool:
        """Tell whether rules of the server may keep our role from seeing some of the events' rows."""
        return False

    def waiting_briefly(self, connection: Connection) -> AbstractContextManager[bool]:
        """Wait for what others have locked no longer than can be borne many times in a transaction.

        The context is False where a transaction does not outlive such a wait: there it is as long as ever.
        """
        return nullcontext(False)

    def check_references_now(self, connection: Connection) -> None:
        """Let this transaction's statements be refused at once, not at COMMIT, for a broken constraint."""

    def commit_after_what_was_found(self, connection: Connection) -> None:
        """Let COMMIT of this transaction wait until all that it has found stored is safe as well."""

    def insert_if_absent(self, table: Any, key: str) -> sa.Insert:
        """Return an INSERT that leaves out rows whose value in the unique column ``key`` is there already."""
        return sa.insert(table)

    def insert_or_update(
        self, connection: Connection, table: Any, row: Mapping[str, Any], key: str, change: Mapping[str, Any]
    ) -> None:
        """Insert a row, or change the one that has the same value in the unique column ``key``."""
        known = sa.update(table).where(table.__table__.c[key] == row[key]).values(change)
        if not connection.execute(known).rowcount:
            connection.execute(sa.insert(table).values(row))

    def delete_by_id(self, connection: Connection, table: str, column: str, ids: Sequence[int]) -> int:
        """Delete rows by an indexed number, in their order; return how many were there."""
        # As one text: a parameter for each id costs more than the database needs to delete it.
        numbers = ",".join(map(str, ids))
        statement = f"DELETE FROM {table} WHERE {column} IN ({numbers})"  # noqa: S608 - ours
        return connection.exec_driver_sql(statement).rowcount


def pool_arguments(settings: StorageSettings) -> dict[str, Any]:
    """Return what every pooled engine is made with."""
    return {
        "pool_size": settings.max_pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.connection_recycle_time,
        # Values of events are no business of a log.
        "hide_parameters": True,
    }


def describe_encryption(*, encrypted: bool, verified: bool, name_verified: bool) -> str:
    """Return what ``Database.encryption`` tells."""
    if not encrypted:
        return "not encrypted"
    if not verified:
        return "encrypted, but the server is not verified"
    return "encrypted, the server verified" + ("" if name_verified else ", but not its name")


def attach(engine: Engine, database: Database) -> None:
    """Let an engine and its connections know what database they talk to."""
    engine.update_execution_options(**{_OPTION: database})


def of(bind: Engine | Connection) -> Database:
    """Return what database an engine or a connection talks to, as chosen when the engine was made."""
    database: Database = bind.get_execution_options()[_OPTION]
    return database


def judge_settings(
    settings: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]], danger: str
) -> Iterator[Finding]:
    """Compare a server's settings with the values that are wanted of them."""
    for name, values in wanted.items():
        value = settings.get(name, "unknown")
        if value in values:
            yield Finding(OK, name, value)
        else:
            yield Finding(WARNING, name, f"{value}: {danger}; set {values[0]}")


LOSES_WHAT_WAS_ACKNOWLEDGED = "a crash of the server may lose events that were acknowledged"
