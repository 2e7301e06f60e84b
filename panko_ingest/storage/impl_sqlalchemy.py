"""The event store on a SQL database, after ``panko.storage.impl_sqlalchemy``.

This is the front: each method is a call into the module that does the work.
"""

import datetime
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import sqlalchemy as sa

from panko_ingest.findings import Finding
from panko_ingest.storage import (
    base,
    conversion,
    dead_letters,
    engine as engines,
    expiry,
    expiry_forecast,
    inspection,
    partitioning,
    query,
    retention,
    role,
    schema,
)
from panko_ingest.storage.base import (
    DeadLetterFilter,
    EventFilter,
    RecordResult,
    SchemaState,
    Statistics,
)
from panko_ingest.storage.faults import Fault
from panko_ingest.storage.models import DeadLetter, DeadLetterSummary, Event, StoredDeadLetter, Trait
from panko_ingest.storage.reading import Reader
from panko_ingest.storage.recording import Recorder
from panko_ingest.storage.reports import ExpiryForecast, ExpiryReport
from panko_ingest.storage.settings import Settings


class Connection(base.Connection):
    """Events in PostgreSQL, MariaDB, MySQL or SQLite. Threads may share one; processes may not."""

    CAPABILITIES: ClassVar[dict[str, Any]] = {"events": {"query": {"simple": True}}}
    STORAGE_CAPABILITIES: ClassVar[dict[str, Any]] = {"storage": {"production_ready": True}}

    def __init__(self, url: str, conf: Any = None) -> None:
        """Remember where the store is.

        :param url: a SQLAlchemy URL, such as ``postgresql://user:password@host/panko`` or ``sqlite://``.
        :param conf: any oslo.config ConfigOpts, or None for our defaults.
        :raises ConfigError: the URL can't be used, or its database driver is not installed.
        """
        self._settings = Settings.from_conf(conf)
        self.engine: sa.Engine = engines.make_engine(url, self._settings)
        self._reader = Reader(self.engine, self._settings)
        # Panko's interface has no close: who used it only lets go of the object.
        weakref.finalize(self, self.engine.dispose)

    dress_url = staticmethod(engines.dress_url)

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self.engine.dispose()

    def ping(self) -> None:
        """Return if events could be recorded now; see :class:`base.Connection`."""
        schema.schema_state(self.engine)

    def upgrade(self, version: str | None = None, *, postpone_rewrites: bool = False) -> None:
        """Bring the schema to a revision, the newest by default; see :class:`base.Connection`.

        :raises StorageUnavailable: it can't be done; what was done stays, and another call goes on.
        """
        partitioning.refuse(self.engine.dialect.name, self._settings)
        schema.upgrade(self.engine, version, postpone_rewrites=postpone_rewrites)
        partitioning.sync(self.engine, self._settings)
        self._recorder.forget()

    def pending_rewrites(self) -> dict[str, str]:
        """Return the tables that ``upgrade`` would write anew, and how big they are."""
        return schema.pending_rewrites(self.engine)

    def current_revision(self) -> str | None:
        """Return the revision that the schema is at; None where ``upgrade`` never ran."""
        return schema.current(self.engine)

    def schema_state(self) -> SchemaState:
        """Return the state of a schema that this release can work with; see :class:`base.Connection`."""
        return schema.schema_state(self.engine)

    def check(self) -> list[Finding]:
        """Look at the schema and at the server's settings, and return what was found, good or bad."""
        return [*inspection.check(self.engine), *partitioning.check(self.engine, self._settings)]

    def check_rights(self, *, to_record: bool, to_expire: bool) -> list[Finding]:
        """Find out whether our role may do what it is for; nothing is changed."""
        return list(role.check(self.engine, to_record=to_record, to_expire=to_expire))

    def convert(self, width: str, tell: Callable[[int, int], None]) -> None:
        """Make plain tables partitioned, while events go on being recorded; see :class:`base.Connection`."""
        conversion.convert(self.engine, self._settings, width, tell)
        self._recorder.forget()

    def clear(self) -> None:
        """Delete all events, traits and event types; dead letters and the schema version stay."""
        expiry.clear(self.engine, self._settings)
        self._recorder.forget()

    def record_events(
        self,
        event_models: Sequence[Event],
        dead_letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        """Write events and dead letters in one transaction; see :class:`base.Connection`."""
        return self._recorder.record(event_models, dead_letters, on_failure)

    def statistics(self) -> Statistics:
        """Return what this connection did so far, for metrics."""
        pool = self.engine.pool
        return Statistics(
            self._recorder.salvaged,
            conflicts=self._recorder.retries[Fault.TRANSIENT],
            reconnects=self._recorder.retries[Fault.AWAY],
            connections_in_use=pool.checkedout() if isinstance(pool, sa.QueuePool) else 0,
        )

    def get_events(
        self, event_filter: EventFilter, pagination: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        """Yield the matching events with their traits, sorted; see :class:`base.Connection`."""
        return query.get_events(self._reader, event_filter, pagination)

    def get_event_types(self) -> Iterator[str]:
        """Yield the names of all event types, sorted."""
        return query.get_event_types(self._reader)

    def get_trait_types(self, event_type: str) -> Iterator[dict[str, Any]]:
        """Yield name and data_type of the traits that events of the type have."""
        return query.get_trait_types(self._reader, event_type)

    def get_traits(self, event_type: str, trait_type: str | None = None) -> Iterator[Trait]:
        """Yield the traits of all events of a type, optionally only those of one name."""
        return query.get_traits(self._reader, event_type, trait_type)

    def clear_expired_data(self, ttl: float, max_count: int | None = None) -> int:
        """Delete events older than ``ttl`` seconds, oldest first; see :class:`base.Connection`."""
        return expiry.clear_expired_events(self.engine, self._settings, ttl, max_count)

    def expire(
        self,
        ttl: float,
        *,
        batch_size: int = 0,
        budget: float | None = None,
        stopping: threading.Event | None = None,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> ExpiryReport:
        """Delete all events older than ``ttl`` seconds, sparing writers; see :class:`base.Connection`."""
        return retention.expire(
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
        """Return what ``expire`` would do now; nothing is changed."""
        return expiry_forecast.forecast(self.engine, self._settings, ttl, clock)

    def clear_expired_dead_letters(self, ttl: float) -> int:
        """Delete dead letters that were last seen more than ``ttl`` seconds ago; return how many."""
        return expiry.clear_expired_dead_letters(self.engine, self._settings, ttl)

    def get_dead_letters(
        self, which: DeadLetterFilter, limit: int | None = None
    ) -> Iterator[DeadLetterSummary]:
        """Yield what can be listed of dead letters, the one seen last first."""
        return dead_letters.summaries(self._reader, which, limit)

    def get_dead_letter(self, letter_id: int) -> StoredDeadLetter | None:
        """Return one dead letter with its body; None where there is none with this id."""
        return dead_letters.get(self._reader, letter_id)

    def replay_dead_letter(self, letter_id: int, event: Event) -> None:
        """Store the event that a dead letter has become, and delete the letter, in one transaction."""
        self._recorder.record([event], (), None, replayed=letter_id)

    def count_dead_letters(self, which: DeadLetterFilter) -> int:
        """Return how many dead letters there are."""
        return dead_letters.count(self._reader, which)

    def delete_dead_letters(self, which: DeadLetterFilter) -> int:
        """Delete dead letters and return how many."""
        return dead_letters.delete(self.engine, which)

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder(self.engine, self._settings)
