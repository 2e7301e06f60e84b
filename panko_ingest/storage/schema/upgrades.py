"""Bringing the schema to a revision, and what stands in the way. Imports alembic, which no worker needs.

Any number of processes may upgrade at once: one does the work, under a lease, the others wait and then find
nothing to do.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError

from panko_ingest import resources
from panko_ingest.storage.database import base as databases
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.database.error_classes import classify, unavailable
from panko_ingest.storage.database.retry import read
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.schema.migration_connection import PATIENT, looking, migrating
from panko_ingest.storage.schema.missing_tables import missing_tables, unmakeable
from panko_ingest.storage.schema.revisions import head, revision_of
from panko_ingest.storage.tables import Base

LOG = logging.getLogger(__name__)

_PATIENCE = 600
"""Seconds for which a change of the schema is tried again when others are in its way."""


def pending_rewrites(engine: sa.Engine, *, dry_run: bool = False) -> dict[str, str]:
    """Return the tables that ``upgrade`` would write anew, and how big they are; writers wait meanwhile.

    It waits for another process that changes the schema: a table that is being changed can't be looked at.

    :param dry_run: don't keep others from changing it meanwhile, for which something must be written.
    :raises StorageUnavailable: the database can't be reached.
    """
    with _refusals_told():
        if databases.of(engine).one_writer_at_a_time:  # which has waited for its lock by then
            return _find_rewrites(engine, dry_run)
        return _again(engine)(_find_rewrites, engine, dry_run)


def _find_rewrites(engine: sa.Engine, dry_run: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    with (looking if dry_run else migrating)(engine) as connection:
        for revision in _pending(connection, "head"):
            found |= _rewrites(connection, revision)
    return found


def obstacles(connection: sa.Connection) -> list[str]:
    """Return what keeps ``upgrade`` from reaching the newest revision, each with what mends it.

    :raises StorageUnavailable: the schema is of another release.
    """
    with _refusals_told():
        pending = _pending(connection, "head")
    hooks = [getattr(revision.module, "obstacles", None) for revision in pending]
    return [text for look in hooks if look for text in look(connection)]


def left_out_on_a_cluster(engine: sa.Engine, *, dry_run: bool = False) -> list[str]:
    """Return the statements that ``upgrade`` leaves out unless ``block_cluster`` is set; none elsewhere.

    It waits for another process that changes the schema: a table that is being changed can't be looked at.

    :param dry_run: don't keep others from changing it meanwhile, for which something must be written.
    :raises StorageUnavailable: the database can't be reached.
    """
    with _refusals_told():
        if not read(engine, PATIENT, databases.of(engine).is_cluster):
            return []
        return _again(engine)(_find_left_out, engine, dry_run)


def _find_left_out(engine: sa.Engine, dry_run: bool) -> list[str]:
    with (looking if dry_run else migrating)(engine) as connection:
        pending = [one for one in _pending(connection, "head") if _rewrites(connection, one)]
        return [statement for one in pending for statement in one.module.statements(connection)]


def upgrade(
    engine: sa.Engine,
    version: str | None = None,
    *,
    postpone_rewrites: bool = False,
    block_cluster: bool = False,
) -> None:
    """Bring the schema to a revision, the newest by default; a database that is there already is left alone.

    :param postpone_rewrites: stop before the first revision that would write or index a big table.
    :param block_cluster: don't stop there on a cluster either, where nobody writes meanwhile.
    :raises StorageUnavailable: it can't be done; what was done stays, and doing it again goes on from there.
    """
    with _refusals_told():
        _again(engine)(_upgrade, engine, version or "head", postpone_rewrites, block_cluster)


def _again(engine: sa.Engine) -> tenacity.Retrying:
    """Return what tries again: writers at work may deadlock with a change of their tables, or hold them."""

    def say_who(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        why = unavailable(error) if isinstance(error, sa.exc.SQLAlchemyError) else error
        users: list[str] = []
        with suppress(sa.exc.SQLAlchemyError, StorageUnavailable), read_transaction(engine) as connection:
            users += databases.of(connection).table_users(connection, 1)
        by = "".join(f" by {user}" for user in users[:1])
        LOG.warning("The tables are in use%s; trying again: %s", by, why)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: classify(error) is ErrorClass.TRANSIENT),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=say_who,
        reraise=True,
    )


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Tell what alembic or the database refuses as an error of the store."""
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise StorageUnavailable(f"db sync: {error}", operator=True) from error
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def _upgrade(engine: sa.Engine, target: str, postpone_rewrites: bool, block_cluster: bool) -> None:
    with migrating(engine) as connection:
        # On SQLite a transaction is open already; elsewhere alembic begins its own, after this one.
        with nullcontext() if connection.in_transaction() else connection.begin():
            if why := unmakeable(connection):
                raise StorageUnavailable(f"db sync: {why}", operator=True)
            if postpone_rewrites or (not block_cluster and databases.of(connection).is_cluster(connection)):
                target = _before_rewrites(connection, target)
        command.upgrade(_alembic(connection), target)
        _make_what_is_gone(connection)


def _make_what_is_gone(connection: sa.Connection) -> None:
    """Make tables anew that a restore has left out, or somebody has dropped: no revision is left for them.

    :raises StorageUnavailable: it can't be done.
    """
    missing = missing_tables(connection)
    if missing and revision_of(connection) != head():  # tables of then may refer by another type
        raise StorageUnavailable(
            f"db sync: {', '.join(missing)} is gone, and made anew at the newest revision only: run it "
            "without --postpone-rewrites, on a cluster with --block-cluster",
            operator=True,
        )
    if missing:
        Base.metadata.create_all(connection, [Base.metadata.tables[name] for name in missing])
        if not databases.of(connection).one_writer_at_a_time:  # where a transaction is around all of it
            connection.commit()
        LOG.warning(
            "Made %s anew: the schema had it already, and it was gone, with the rights to it",
            ", ".join(missing),
        )


def _alembic(connection: sa.Connection | None = None) -> Config:
    config = Config(str(resources.path("migrations", "alembic.ini")))
    config.attributes["connection"] = connection
    return config


@functools.cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _pending(connection: sa.Connection, target: str) -> list[Script]:
    """Return the revisions between the database's and the target, the next one first."""
    return list(_script().iterate_revisions(target, revision_of(connection) or "base"))[::-1]


def _rewrites(connection: sa.Connection, revision: Script) -> dict[str, str]:
    look: Callable[[sa.Connection], dict[str, str]] | None = getattr(revision.module, "rewrites", None)
    return look(connection) if look else {}


def _before_rewrites(connection: sa.Connection, target: str) -> str:
    for revision in _pending(connection, target):
        if _rewrites(connection, revision):
            return str(revision.down_revision)
    return target
