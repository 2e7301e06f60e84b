"""The interface every event store offers, after ``panko.storage.base``."""

import datetime
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from panko_ingest.findings import Finding
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

ToldProgress = Callable[[int, int], None]
"""Takes how much was done, and how much there is: events of a merge, bytes of tables of a partitioning."""


class RecordResult(NamedTuple):
    """What became of each event given to ``record_events``, by its index in the input.

    Every index is in exactly one of the three; ``failed`` holds ``(index, error)`` pairs. A duplicate is an
    event that is stored, or whose message_id is; with ``on_failure`` one whose message_id another event has,
    of another type or time, has failed instead.
    """

    recorded: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    failed: tuple[tuple[int, Exception], ...] = ()


class PurgedDeadLetters(NamedTuple):
    """How many dead letters were deleted, and how many a trigger or a reference keeps, and why."""

    deleted: int
    kept: int = 0
    why: str = ""


@dataclass
class Merged:
    """What came of a merge: events and dead letters that were there, and those that are new here.

    ``refused`` are message_ids of events that can't be read there or stored here, each with the reason; where
    there is none, the row's number. ``refused_letters`` are the same of dead letters, by the rows' numbers.
    ``left_out`` are message_ids and times of events whose message_id another event has here: the plain layout
    holds a message_id once, a partitioned one once in each partition.
    ``salvaged`` counts traits that were trimmed, changed or dropped so that their events could be stored.
    ``named`` counts events without a message_id, which got one made of what is in them, now or earlier.
    """

    events: int = 0
    recorded: int = 0
    salvaged: int = 0
    named: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, datetime.datetime]] = field(default_factory=list)
    letters: int = 0
    new_letters: int = 0
    refused_letters: list[tuple[str, str]] = field(default_factory=list)


class Follower(Protocol):
    """Finds the events that were committed since it looked last."""

    def poll(self) -> Iterable[Event]:
        """Yield them, each once; the first call yields nothing.

        :raises StorageUnavailable: the store can't be read; the next call goes on where this one was.
        """


class SchemaState(NamedTuple):
    """The revision that the store's schema is at, and the newest that this release knows."""

    revision: str
    head: str


class Statistics(NamedTuple):
    """What a connection did so far, and what it uses now."""

    salvaged: int = 0
    """Traits of recorded events that were trimmed, changed or dropped."""
    conflicts: int = 0
    """Transactions run again because another one was in the way."""
    reconnects: int = 0
    """Transactions run again because their connection broke."""
    blockers_ended: int = 0
    """Sessions of ours whose client was gone, ended because they kept others waiting."""
    connections_in_use: int = 0


class Connection(ABC):
    """One event store. Constructing it opens nothing; the first call does."""

    CAPABILITIES: ClassVar[dict[str, Any]] = {"events": {"query": {"simple": False}}}
    STORAGE_CAPABILITIES: ClassVar[dict[str, Any]] = {"storage": {"production_ready": False}}

    @abstractmethod
    def __init__(self, url: str, conf: Any = None) -> None:
        """Remember where the store is. ``conf`` is any oslo.config ConfigOpts, or None for defaults."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers.

        :raises StorageUnavailable: the store is away, or its schema is not one this code works on.
        """

    @abstractmethod
    def prove_rows(self) -> None:
        """Return if events could be recorded now, which is proved by rows that are rolled back.

        :raises StorageUnavailable: the store is away, or takes none: its disk is full, or it is read-only.
        """

    def statistics(self) -> Statistics:
        """Return what this connection did so far, for metrics."""
        return Statistics()

    @abstractmethod
    def close(self) -> None:
        """Give back every connection; the next call opens new ones."""

    @abstractmethod
    def missing_file(self) -> str:
        """Return the path of the file that the database is in where it is absent, else an empty text."""

    @abstractmethod
    def upgrade(
        self,
        version: str | None = None,
        *,
        postpone_rewrites: bool = False,
        block_cluster: bool = False,
    ) -> None:
        """Bring the schema to a revision, the newest by default.

        :param postpone_rewrites: stop before the first revision that would write or index a big table.
        :param block_cluster: don't stop there on a cluster either, where no service can write meanwhile.
        """

    @abstractmethod
    def left_out_on_a_cluster(self, *, dry_run: bool = False) -> list[str]:
        """Return the statements that ``upgrade`` leaves out on a cluster without ``block_cluster``.

        :param dry_run: write nothing at all, so that another ``upgrade`` may begin meanwhile.
        """

    @abstractmethod
    def pending_rewrites(self, *, dry_run: bool = False) -> dict[str, str]:
        """Return the tables that ``upgrade`` would write anew, and how big they are.

        :param dry_run: write nothing at all, so that another ``upgrade`` may begin meanwhile.
        """

    @abstractmethod
    def sync_obstacles(self) -> tuple[list[str], list[str]]:
        """Return what ``upgrade`` would refuse, with what mends it, and who has the tables in use now.

        :raises ConfigError: the partitions that are configured can't be, as ``upgrade`` says as well.
        """

    @abstractmethod
    def current_revision(self) -> str | None:
        """Return the revision that the schema is at; None where ``upgrade`` never ran."""

    @abstractmethod
    def missing_tables(self) -> list[str]:
        """Return those of our tables that are not there, and ``upgrade`` would make."""

    @abstractmethod
    def schema_state(self) -> SchemaState:
        """Return the state of a schema that this release can work with.

        :raises StorageUnavailable: with ``operator`` set when it can't, saying what to do.
        """

    @abstractmethod
    def check(self) -> list[Finding]:
        """Look at the schema and at the server's settings, and return what was found, good or bad."""

    @abstractmethod
    def lock_waits(self) -> list[LockWait]:
        """Return what the sessions of our role wait for now, as far as the role may see who holds it.

        :raises StorageUnavailable: the store is away.
        """

    @abstractmethod
    def check_rights(self, *, to_record: bool, to_expire: bool) -> list[Finding]:
        """Find out whether our account in the store may do what it is for; nothing is changed."""

    @abstractmethod
    def partition(self, width: str, tell: ToldProgress) -> None:
        """Make plain tables partitioned, while events go on being recorded.

        It may be interrupted at any time; another call goes on from there.

        :param width: day, week or month.
        :param tell: takes the bytes of the tables that were read, and of all.
        :raises ConfigError: the database has no partitions, or that width would make too many.
        :raises StorageUnavailable: the store is away or in use by others.
        """

    @abstractmethod
    def merge(self, url: str, tell: ToldProgress) -> Merged:
        """Copy the events and dead letters of another event database that this one has not.

        :param url: of Panko's, Ceilometer's or one of ours, in any layout; it is only read.
        :param tell: takes the number of events that were looked at, and of all.
        :raises ConfigError: it is this one, or the URL can't be used.
        :raises StorageUnavailable: one of the two is away; what was copied stays.
        """

    @abstractmethod
    def clear(self) -> None:
        """Delete the events that there are, with their traits, and event types without events.

        It may run beside writers, what they store meanwhile stays. Dead letters and the schema version stay.
        """

    @abstractmethod
    def record_events(
        self,
        event_models: Sequence[Event],
        dead_letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        """Write events and dead letters in one transaction.

        Without ``on_failure`` it behaves as Panko's: all that can be recorded is, then the last
        error is raised; duplicates, told by their message_id alone, are no error. With it, an event that
        can never be stored, and one whose message_id another event has (``MessageIdTaken``), becomes
        the dead letter that ``on_failure(index, error)`` returns, in the same transaction, and
        nothing is raised for it.

        :raises StorageUnavailable: the store is away or refuses for reasons of its own; nothing is
            committed.
        """

    @abstractmethod
    def get_events(
        self, event_filter: EventFilter, pagination: Mapping[str, Any] | None = None
    ) -> Iterable[Event]:
        """Yield the matching events with their traits, sorted.

        :param pagination: ``{"limit": n, "marker": message_id, "sort": [(key, "asc"|"desc"), ...]}``,
            each optional; keys are ``Event.SUPPORT_SORT_KEYS``. Where days are partitions, a
            message_id may be that of several events: one that an event of ours brought tells which it
            is of, and so does the text of ``Event.marker``.
        :raises InvalidMarker: no event has the marker's message_id, or several have.
        """

    @abstractmethod
    def follow(self, event_filter: EventFilter) -> Follower:
        """Return what finds the matching events as they are committed."""

    @abstractmethod
    def count_events(
        self, start: datetime.datetime | None = None, end: datetime.datetime | None = None
    ) -> dict[str, int]:
        """Return how many events of each type there are, no type without any; times are inclusive."""

    @abstractmethod
    def get_event_types(self) -> Iterable[str]:
        """Yield the names of all event types, sorted."""

    @abstractmethod
    def get_trait_types(self, event_type: str) -> Iterable[dict[str, Any]]:
        """Yield ``{"name": key, "data_type": number}`` for each trait that events of the type have."""

    @abstractmethod
    def get_traits(self, event_type: str, trait_type: str | None = None) -> Iterable[Trait]:
        """Yield the traits of all events of a type, optionally only those of one name."""

    @abstractmethod
    def now(self) -> datetime.datetime:
        """Return the time by which things are too old: the earlier one of the host's and the server's.

        :returns: naive UTC.
        :raises StorageUnavailable: the server can't be asked.
        """

    @abstractmethod
    def clear_expired_data(self, ttl: float, max_count: int | None = None) -> int:
        """Delete events with ``generated`` before :meth:`now` - ``ttl`` seconds, oldest first.

        It does as it is told, as in Panko: who calls it has looked at the clock, unlike :meth:`expire`.

        :param max_count: one batch of at most so many; 0 or None: all of them, in batches.
        :returns: the number of events deleted.
        :raises InvalidRequest: one of the two is negative, or no number.
        """

    @abstractmethod
    def expire(
        self,
        ttl: float,
        *,
        batch_size: int = 0,
        budget: float | None = None,
        stopping: threading.Event | None = None,
        clock: Callable[[], datetime.datetime] | None = None,
    ) -> ExpiryReport:
        """Delete all events with ``generated`` before now - ``ttl`` seconds, at a pace that spares writers.

        Only one expirer works at a time; another returns at once, having stood by. A ``ttl`` of 0 or
        less means that nothing expires.

        :param batch_size: events in a transaction; 0 for as many as are deleted in 100 ms.
        :param budget: seconds after which to leave the rest to the next round; None for none.
        :param stopping: ends the round between two batches when it is set.
        :param clock: returns the time, naive UTC, for which the caller vouches; by default :meth:`now`.
        :raises ClockDoubted: that has leapt since it was believed last, nothing in the store bears it out,
            and something is old by it; nothing was deleted.
        :raises StorageUnavailable: the store is away; what was deleted so far stays deleted.
        """

    @abstractmethod
    def forecast_expiry(
        self, ttl: float, *, clock: Callable[[], datetime.datetime] | None = None
    ) -> ExpiryForecast:
        """Return what ``expire`` would do now; nothing is changed."""

    @abstractmethod
    def clear_expired_dead_letters(
        self,
        ttl: float,
        *,
        budget: float | None = None,
        stopping: threading.Event | None = None,
    ) -> int:
        """Delete dead letters last seen before now - ``ttl`` seconds; return how many.

        :param budget: seconds after which to stop; 0 or None for any.
        :param stopping: ends it between two batches when it is set.
        :raises ClockDoubted: as of :meth:`expire`.
        """

    @abstractmethod
    def get_dead_letters(
        self, which: DeadLetterFilter, limit: int | None = None
    ) -> Iterable[DeadLetterSummary]:
        """Yield what can be listed of dead letters, the one seen last first."""

    @abstractmethod
    def get_dead_letter(self, letter_id: int) -> StoredDeadLetter | None:
        """Return one dead letter with its body; None where there is none with this id."""

    @abstractmethod
    def get_stored_dead_letters(self, which: DeadLetterFilter) -> Iterable[StoredDeadLetter]:
        """Yield dead letters with their bodies, the one seen last first."""

    @abstractmethod
    def replay_dead_letters(self, events: Mapping[int, Event]) -> dict[int, Exception]:
        """Store the events that dead letters have become, each with its letter's deletion, many at once.

        An event that is stored already is no error, and neither is a letter that is gone.

        :param events: by the letters' ids.
        :returns: of those events that can't be stored, and of those letters that the database keeps, by the
            letters' ids, the reason; these letters stay, and their events are not stored.
        :raises StorageUnavailable: the store is away; all letters stay.
        """

    @abstractmethod
    def count_dead_letters(self, which: DeadLetterFilter) -> int:
        """Return how many dead letters there are."""

    @abstractmethod
    def count_dead_letters_by_stage(self) -> dict[str, int]:
        """Return how many dead letters there are of each stage, no stage without any."""

    @abstractmethod
    def delete_dead_letters(self, which: DeadLetterFilter) -> PurgedDeadLetters:
        """Delete dead letters, except those that the database keeps, many in one transaction.

        :raises StorageUnavailable: the store can't be written to; what was deleted before stays so.
        """

    @classmethod
    def get_capabilities(cls) -> dict[str, Any]:
        """Return what queries this driver supports."""
        return cls.CAPABILITIES

    @classmethod
    def get_storage_capabilities(cls) -> dict[str, Any]:
        """Return whether this driver is meant for production."""
        return cls.STORAGE_CAPABILITIES
