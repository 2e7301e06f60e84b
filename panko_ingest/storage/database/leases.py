"""Leases: rows by which one process of many does a job, and proves before each step that it still may.

A lease is one row that names its holder and the time at which it ends, by the server's clock. It needs no
connection of its own, so that neither a proxy nor a pooler nor ``wait_timeout`` can take it away; and it is
data, so that it holds across a cluster, where a lock of a server is one node's (or refused).
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from panko_ingest import threads
from panko_ingest.findings import OK, WARNING, Finding
from panko_ingest.storage.database import base as databases, retry
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.settings import StorageSettings

LOG = logging.getLogger(__name__)

TABLE = "panko_ingest_lease"
MIGRATION, EXPIRY = "migration", "expiry"

DURATION = 10.0
"""Seconds for which a lease is given: so long others wait for a job whose holder died."""

_RENEWALS = DURATION / 4
_LOOKS = 0.5
_TOLD = 30.0

LEASES = sa.Table(
    TABLE,
    sa.MetaData(),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", sa.String(255), nullable=False),
    sa.Column("ends", sa.Double, nullable=False),
    mysql_engine="InnoDB",
)


class LeaseLost(StorageUnavailable):
    """Somebody else does the job by now: what was to come next was not done."""


class Lease:
    """A lease that is held, or not yet."""

    def __init__(self, engine: sa.Engine, settings: StorageSettings, name: str) -> None:
        """Remember what lease it is; ``name`` is one of those above."""
        self._engine = engine
        self._settings = settings
        self.name = name
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._now = sa.literal_column(databases.of(engine).now, sa.Double)
        # One that ends later than any is given for was written while the server's clock was wrong.
        valid = LEASES.c.ends.between(self._now, self._now + 2 * DURATION)
        # It may be ours before we know: the answer to the COMMIT by which we took it may have been lost.
        self._is_anothers = sa.and_(valid, LEASES.c.holder != self._holder)

    def take(self) -> bool:
        """Take the lease unless another process holds it; tell whether it is ours now."""
        # To look first keeps us from waiting for the holder's transaction.
        return self.is_free() and self._write(~self._is_anothers, self._now + DURATION)

    def is_free(self) -> bool:
        """Tell whether nobody else holds it."""
        look = sa.select(LEASES.c.name).where(LEASES.c.name == self.name, self._is_anothers)
        return retry.read(self._engine, self._settings, lambda connection: connection.scalar(look)) is None

    def prove(self) -> None:
        """Return if the lease is still ours, and make it last from now on.

        :raises LeaseLost: it is another process's.
        :raises StorageUnavailable: the store can't be asked.
        """
        if not self._write(LEASES.c.holder == self._holder, self._now + DURATION):
            raise LeaseLost(f"{TABLE}: the lease {self.name!r} of {self._holder} was taken over")

    def renew(self, connection: sa.Connection) -> bool:
        """Tell in a transaction whether the lease is ours; nobody takes it before the transaction's end."""
        ours = sa.and_(LEASES.c.name == self.name, LEASES.c.holder == self._holder)
        return bool(
            connection.execute(sa.update(LEASES).where(ours).values(ends=self._now + DURATION)).rowcount
        )

    def release(self) -> None:
        """Give the lease back; if that fails, it ends by itself."""
        try:
            self._write(LEASES.c.holder == self._holder, sa.literal(0.0))
        except (sa.exc.SQLAlchemyError, StorageUnavailable) as error:
            LOG.info("The lease %s ends by itself: %s", self.name, error)

    def holder(self) -> str:
        """Return who holds it: host, process and a random name."""
        with read_transaction(self._engine) as connection:
            return str(connection.scalar(sa.select(LEASES.c.holder).where(LEASES.c.name == self.name)))

    def _write(self, condition: sa.ColumnElement[bool], ends: sa.ColumnElement[float]) -> bool:
        wanted = sa.update(LEASES).where(LEASES.c.name == self.name, condition)

        def write() -> bool:
            with write_transaction(self._engine) as connection:
                return bool(connection.execute(wanted.values(holder=self._holder, ends=ends)).rowcount)

        return retry.run_transaction(self._settings, write)


class Needless:
    """Where one process writes at a time anyhow, or where nobody made the table yet."""

    def prove(self) -> None:
        """Return."""

    def renew(self, connection: sa.Connection) -> bool:
        """Return True."""
        return True


Held = Lease | Needless
"""The right to do a job, which is to be proved before each step."""


def make(connection: sa.Connection) -> None:
    """Make the table and its rows where they are not there yet; any number of processes may at once."""
    if not databases.of(connection).now or _is_there(connection):
        return
    connection.rollback()
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.execute(sa.schema.CreateTable(LEASES, if_not_exists=True))
    except sa.exc.SQLAlchemyError:
        # PostgreSQL looks and makes in two steps, between which another process may have made it.
        # A server that is read-only has ended the session, and to ask it would hide why.
        if connection.invalidated or not _is_there_for_others(connection.engine):
            raise
    rows = [{"name": name, "holder": "", "ends": 0.0} for name in (EXPIRY, MIGRATION)]
    connection.execute(databases.of(connection).insert_if_absent(LEASES, "name"), rows)


def _is_there_for_others(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(sa.inspect(connection).has_table(TABLE))


def _is_there(connection: sa.Connection) -> bool:
    if not sa.inspect(connection).has_table(TABLE):
        return False
    return connection.scalar(sa.select(sa.func.count()).select_from(LEASES)) == len((EXPIRY, MIGRATION))


def check(connection: sa.Connection) -> Iterator[Finding]:
    """Tell whether expirers can know of each other."""
    if not databases.of(connection).now:
        return
    if _is_there(connection):
        yield Finding(OK, "lease", f"a row of {TABLE}: good on every node, unlike a server's own lock")
    else:
        yield Finding(
            WARNING, "lease", f"there is no table {TABLE}, or it lacks rows: run `panko-ingest db sync`"
        )


@contextmanager
def held(engine: sa.Engine, settings: StorageSettings, name: str) -> Iterator[Held | None]:
    """Give a lease that is held to the end of the block, as far as that can be; None where another holds it.

    :raises StorageUnavailable: the store can't be asked.
    """
    if not _needed(engine, settings, name):
        yield Needless()
        return
    lease = Lease(engine, settings, name)
    if not lease.take():
        yield None
        return
    with _kept(lease):
        yield lease


@contextmanager
def waited_for(engine: sa.Engine, settings: StorageSettings, name: str) -> Iterator[Held]:
    """Wait for a lease, and hold it to the end of the block, as far as that can be.

    :raises StorageUnavailable: the store can't be asked.
    """
    if not _needed(engine, settings, name):
        yield Needless()
        return
    lease = Lease(engine, settings, name)

    def taken() -> bool:
        if lease.take():
            return True
        if not _is_made(engine, settings, name):  # any more
            raise StorageUnavailable(f"{TABLE}: the row {name!r} was deleted: try again", operator=True)
        return False

    _wait(lease, taken)
    with _kept(lease):
        yield lease


def wait_until_free(engine: sa.Engine, settings: StorageSettings, name: str) -> None:
    """Wait until nobody holds a lease, without taking it: nothing is written.

    :raises StorageUnavailable: the store can't be asked.
    """
    if _is_made(engine, settings, name):
        lease = Lease(engine, settings, name)
        _wait(lease, lease.is_free)


def _wait(lease: Lease, ready: Callable[[], bool]) -> None:
    told = -_TOLD
    while not ready():
        if time.monotonic() - told >= _TOLD:
            LOG.warning(
                "Waiting for the lease %r, which another process has: %s (host:process:name)",
                lease.name,
                lease.holder(),
            )
            told = time.monotonic()
        time.sleep(_LOOKS)


def _needed(engine: sa.Engine, settings: StorageSettings, name: str) -> bool:
    if not databases.of(engine).now:
        return False
    there = _is_made(engine, settings, name)
    if not there:
        LOG.warning("There is no row %r in a table %s: run `panko-ingest db sync`", name, TABLE)
    return there


def _is_made(engine: sa.Engine, settings: StorageSettings, name: str) -> bool:
    """Tell whether there is a row to take: nobody could hold one that was left out of a restore."""
    row = sa.select(sa.literal(1)).where(LEASES.c.name == name)
    return retry.read(
        engine,
        settings,
        lambda connection: sa.inspect(connection).has_table(TABLE) and connection.scalar(row) is not None,
    )


@contextmanager
def _kept(lease: Lease) -> Iterator[None]:
    """Renew a lease while a step takes longer than it lasts, and give it back in the end."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEWALS):
            try:
                lease.prove()
            except (sa.exc.SQLAlchemyError, StorageUnavailable) as error:
                LOG.warning("The lease %r could not be renewed: %s", lease.name, error)

    try:
        thread = threads.start(renew, "lease")
    except OSError as error:
        lease.release()
        raise StorageUnavailable(str(error)) from None
    try:
        yield
    finally:
        done.set()
        thread.join(_RENEWALS)  # it may wait for an answer that never comes
        lease.release()
