"""The event store on a SQL database, after ``panko.storage.impl_sqlalchemy``.

This is the front: each method is a call into the module that does the work. What it does is documented
once, in ``base``.
"""

import datetime
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa

from panko_ingest.findings import Finding
from panko_ingest.storage import base, merging
from panko_ingest.storage.base import (
    Merged,
    PurgedDeadLetters,
    RecordResult,
    SchemaState,
    Statistics,
    ToldProgress,
)
from panko_ingest.storage.database import (
    base as databases,
    blockers,
    clocks,
    engine as engines,
    error_classes,
)
from panko_ingest.storage.database.retry import read
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.expiry import deletion, expiry_round, forecast
from panko_ingest.storage.expiry_results import ExpiryForecast, ExpiryReport
from panko_ingest.storage.filters import DeadLetterFilter, EventFilter
from panko_ingest.storage.models import (
    DeadLetter,
    DeadLetterSummary,
    Event,
    LockWait,
    StoredDeadLetter,
    Trait,
)
from panko_ingest.storage.reading import dead_letters, events
from panko_ingest.storage.reading.follow import Follower
from panko_ingest.storage.reading.read_access import ReadAccess
from panko_ingest.storage.recording.recorder import Recorder
from panko_ingest.storage.recording.writers import references
from panko_ingest.storage.schema import (
    checks,
    integrity,
    missing_tables,
    partition_ddl,
    partition_migration,
    privileges,
    revisions,
)
from panko_ingest.storage.settings import StorageSettings


class Connection(base.Connection):
    """Events in PostgreSQL, MariaDB, MySQL or SQLite. Threads may share one; processes may not.

    A database in memory has one connection, which threads use in turns.
    """

    CAPABILITIES: ClassVar[dict[str, Any]] = {"events": {"query": {"simple": True}}}
    STORAGE_CAPABILITIES: ClassVar[dict[str, Any]] = {"storage": {"production_ready": True}}

    def __init__(self, url: str, conf: Any = None) -> None:
        """Remember where the store is.

        :param url: a SQLAlchemy URL, such as ``postgresql://user:password@host/panko`` or ``sqlite://``.
        :param conf: any oslo.config ConfigOpts, or None for our defaults.
        :raises ConfigError: the URL can't be used, or its database driver is not installed.
        """
        self._settings = StorageSettings.from_conf(conf)
        self.engine: sa.Engine = engines.make_engine(url, self._settings)
        self._reader = ReadAccess(self.engine, self._settings)
        self._recorder = Recorder(self.engine, self._settings)
        # Panko's interface has no close: who used it only lets go of the object.
        weakref.finalize(self, self.engine.dispose)

    dress_url = staticmethod(engines.dress_url)

    def close(self) -> None:
        self.engine.dispose()

    def ping(self) -> None:
        revisions.schema_state(self.engine)
        integrity.tell_once(self.engine)

    def prove_rows(self) -> None:
        self.ping()
        self._recorder.prove()

    def missing_file(self) -> str:
        return databases.of(self.engine).missing_file(self.engine)

    def left_out_on_a_cluster(self, *, dry_run: bool = False) -> list[str]:
        from panko_ingest.storage.schema import upgrades  # noqa: PLC0415 - alembic

        return upgrades.left_out_on_a_cluster(self.engine, dry_run=dry_run)

    def upgrade(
        self,
        version: str | None = None,
        *,
        postpone_rewrites: bool = False,
        block_cluster: bool = False,
    ) -> None:
        from panko_ingest.storage.schema import upgrades  # noqa: PLC0415 - alembic

        partition_ddl.refuse(self.engine, self._settings)
        upgrades.upgrade(
            self.engine, version, postpone_rewrites=postpone_rewrites, block_cluster=block_cluster
        )
        partition_ddl.sync(self.engine, self._settings)
        self._recorder.forget()

    def pending_rewrites(self, *, dry_run: bool = False) -> dict[str, str]:
        from panko_ingest.storage.schema import upgrades  # noqa: PLC0415 - alembic

        return upgrades.pending_rewrites(self.engine, dry_run=dry_run)

    def sync_obstacles(self) -> tuple[list[str], list[str]]:
        from panko_ingest.storage.schema import upgrades  # noqa: PLC0415 - alembic

        partition_ddl.refuse(self.engine, self._settings)

        def look(connection: sa.Connection) -> tuple[list[str], list[str]]:
            users = databases.of(connection).table_users(connection, 1.0)
            found = upgrades.obstacles(connection) + partition_ddl.obstacles(connection, self._settings)
            gone = missing_tables.unmakeable(connection)
            return [*found, gone] if gone else found, list(users)

        return read(self.engine, self._settings, look)

    def current_revision(self) -> str | None:
        return revisions.current(self.engine)

    def missing_tables(self) -> list[str]:
        return read(self.engine, self._settings, missing_tables.missing_tables)

    def schema_state(self) -> SchemaState:
        return revisions.schema_state(self.engine)

    def check(self) -> list[Finding]:
        return [
            *checks.check(self.engine),
            *references.check(self.engine, self._settings),
            *partition_ddl.check(self.engine, self._settings),
        ]

    def lock_waits(self) -> list[LockWait]:
        try:
            with self.engine.connect() as connection:
                waits = databases.of(connection).lock_waits(connection)
                return list({wait.holder: wait for wait in waits}.values())
        except sa.exc.SQLAlchemyError as error:
            raise error_classes.unavailable(error) from error

    def check_rights(self, *, to_record: bool, to_expire: bool) -> list[Finding]:
        return list(privileges.check(self.engine, to_record=to_record, to_expire=to_expire))

    def partition(self, width: str, tell: ToldProgress) -> None:
        partition_migration.migrate(self.engine, self._settings, width, tell)
        self._recorder.forget()

    def merge(self, url: str, tell: ToldProgress) -> Merged:
        return merging.merge(url, self.engine, self._settings, self._recorder, tell)

    def clear(self) -> None:
        deletion.clear(self.engine, self._settings)
        self._recorder.forget()

    def record_events(
        self,
        event_models: Sequence[Event],
        dead_letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        return self._recorder.record(event_models, dead_letters, on_failure)

    def statistics(self) -> Statistics:
        pool = self.engine.pool
        return Statistics(
            self._recorder.salvaged,
            conflicts=self._recorder.retries[ErrorClass.TRANSIENT],
            reconnects=self._recorder.retries[ErrorClass.AWAY],
            blockers_ended=blockers.ended(self.engine),
            connections_in_use=pool.checkedout() if isinstance(pool, sa.QueuePool) else 0,
        )

    def get_events(
        self, event_filter: EventFilter, pagination: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        return events.get_events(self._reader, event_filter, pagination)

    def follow(self, event_filter: EventFilter) -> Follower:
        return Follower(self._reader, event_filter)

    def count_events(
        self, start: datetime.datetime | None = None, end: datetime.datetime | None = None
    ) -> dict[str, int]:
        return events.count_by_type(self._reader, start, end)

    def get_event_types(self) -> Iterator[str]:
        return events.get_event_types(self._reader)

    def get_trait_types(self, event_type: str) -> Iterator[dict[str, Any]]:
        return events.get_trait_types(self._reader, event_type)

    def get_traits(self, event_type: str, trait_type: str | None = None) -> Iterator[Trait]:
        return events.get_traits(self._reader, event_type, trait_type)

    def now(self) -> datetime.datetime:
        return clocks.now(self.engine, self._settings)

    def clear_expired_data(self, ttl: float, max_count: int | None = None) -> int:
        return deletion.clear_expired_events(self.engine, self._settings, ttl, max_count)

    def expire(
        self,
        ttl: float,
        *,
        batch_size: int = 0,
        budget: float | None = None,
        stopping: threading.Event | None = None,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> ExpiryReport:
        return expiry_round.expire(
            self.engine,
            self._settings,
            ttl,
            batch_size=batch_size,
            budget=budget,
            stopping=stopping,
            clock=clock,
        )

    def forecast_expiry(
        self, ttl: float, *, clock: Callable[[], datetime.datetime] | None = None
    ) -> ExpiryForecast:
        return forecast.forecast(self.engine, self._settings, ttl, clock)

    def clear_expired_dead_letters(
        self,
        ttl: float,
        *,
        budget: float | None = None,
        stopping: threading.Event | None = None,
    ) -> int:
        return deletion.clear_expired_dead_letters(self.engine, self._settings, ttl, budget, stopping)

    def get_dead_letters(
        self, which: DeadLetterFilter, limit: int | None = None
    ) -> Iterator[DeadLetterSummary]:
        return dead_letters.summaries(self._reader, which, limit)

    def get_dead_letter(self, letter_id: int) -> StoredDeadLetter | None:
        return dead_letters.get(self._reader, letter_id)

    def get_stored_dead_letters(self, which: DeadLetterFilter) -> Iterator[StoredDeadLetter]:
        return dead_letters.stored(self._reader, which)

    def replay_dead_letters(self, events: Mapping[int, Event]) -> dict[int, Exception]:
        return self._recorder.replay(events)

    def count_dead_letters(self, which: DeadLetterFilter) -> int:
        return dead_letters.count(self._reader, which)

    def count_dead_letters_by_stage(self) -> dict[str, int]:
        return dead_letters.count_by_stage(self._reader)

    def delete_dead_letters(self, which: DeadLetterFilter) -> PurgedDeadLetters:
        return deletion.purge(self.engine, self._settings, which)
