"""Recording: what must be known of the database, and a batch handed on until it is stored or refused."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from panko_ingest.storage import request_values
from panko_ingest.storage.base import RecordResult
from panko_ingest.storage.database import fault_search
from panko_ingest.storage.database.engine import write_transaction
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.models import DeadLetter, Event
from panko_ingest.storage.recording import probe
from panko_ingest.storage.recording.batch_transaction import BatchTransaction, LimitsChanged, OnFailure
from panko_ingest.storage.recording.event_types import EventTypes
from panko_ingest.storage.recording.validation import Validator
from panko_ingest.storage.recording.writers.portable import PortableWriter
from panko_ingest.storage.recording.writers.registry import writer_for
from panko_ingest.storage.schema.column_limits import ColumnLimits, read_limits
from panko_ingest.storage.settings import StorageSettings

_MOST_LEARNED = 2  # times that one batch makes us learn anew what the tables can hold
_LOOK_AGAIN = 2.0
"""Seconds between two looks at what the tables can hold, while events have more than we know of."""


class _Learned(NamedTuple):
    """What a database needs, replaced as a whole: threads share it."""

    writer: PortableWriter
    validator: Validator


class _Asked(NamedTuple):
    """What a caller wants recorded, and how."""

    events: Sequence[Event]
    tells_apart: bool
    letters: Sequence[DeadLetter] = ()
    on_failure: OnFailure | None = None
    replayed: Sequence[int] = ()


class Recorder:
    """Records batches on one engine. What it must know of the database it learns at the first batch."""

    def __init__(self, engine: sa.Engine, settings: StorageSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._types = EventTypes(engine)
        self._learned: _Learned | None = None
        self._looked_at = 0.0
        self.salvaged = 0
        """How many traits of the events recorded so far were trimmed, changed or dropped."""
        self.retries: Counter[ErrorClass] = Counter()
        """How many transactions were run again so far, and why."""

    def forget(self) -> None:
        """Learn anew what was known of the database: its schema or its event types have changed."""
        self._types.forget()
        self._learned = None

    def record(
        self,
        events: Sequence[Event],
        letters: Sequence[DeadLetter],
        on_failure: OnFailure | None,
    ) -> RecordResult:
        """Record a batch; see ``Connection.record_events``."""
        # Which an iterator would give once, and another try may need again.
        result = self._record(_Asked(list(events), on_failure is not None, list(letters), on_failure))
        if result.failed and on_failure is None:
            raise result.failed[-1][1]
        return result

    def record_what_can_be(self, events: Sequence[Event]) -> RecordResult:
        """Record events; those that can't be are told, with the reason, and leave nothing behind.

        An event whose message_id another one has here is one that can't be.

        :raises StorageUnavailable: the store is away or refuses for reasons of its own.
        """
        return self._record(_Asked(events, tells_apart=True))

    def replay(self, events: Mapping[int, Event]) -> dict[int, Exception]:
        """Record what dead letters have become; see ``Connection.replay_dead_letters``."""
        letters = [
            request_values.integer(letter, "id") for letter in request_values.mapping(events, "events")
        ]
        try:
            result = self._record(_Asked(list(events.values()), tells_apart=True, replayed=letters))
        except Exception as error:
            if not fault_search.may_be_a_rows(error):
                raise
            # No event's, which are told one by one: a letter is kept, and none of the events is stored.
            if len(letters) == 1:
                return {letters[0]: fault_search.as_refusal(error)}
            middle = len(letters) // 2
            halves = (letters[:middle], letters[middle:])
            first, second = (self.replay({letter: events[letter] for letter in half}) for half in halves)
            return first | second
        return {letters[index]: error for index, error in result.failed}

    def _record(self, asked: _Asked, learned: int = 0) -> RecordResult:
        writer, validator = run_transaction(self._settings, self._learn, self._count_retry)
        rows, failures = validator.rows(asked.events)
        changes = {row.index: row.changes for row in rows if row.changes}
        if (changes or failures) and learned < _MOST_LEARNED and self._holds_more_now(validator):
            self.forget()
            return self._record(asked, learned + 1)
        rows.sort(key=writer.key)
        batch = BatchTransaction(
            self._engine,
            self._types,
            writer,
            validator,
            rows,
            failures,
            asked.letters,
            asked.on_failure,
            asked.replayed,
            asked.tells_apart,
            # Two sessions of a server may have limits of their own, each unlike what the other told.
            limits_may_change=learned < _MOST_LEARNED,
        )
        try:
            result = run_transaction(self._settings, batch.store, self._count_retry).result()
        except LimitsChanged:
            self.forget()
            return self._record(asked, learned + 1)
        except Exception:
            # Who knows what it is when it comes back: another schema, another layout, other event types.
            self.forget()
            raise
        self.salvaged += sum(changes.get(index, 0) for index in result.recorded) if changes else 0
        return result

    def _holds_more_now(self, validator: Validator) -> bool:
        """Look whether the tables are others than they were: no error tells of those that became wider."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK_AGAIN:
            return False
        self._looked_at = now

        def look() -> ColumnLimits:
            with self._engine.connect() as connection:
                return read_limits(connection)

        return run_transaction(self._settings, look, self._count_retry) != validator.limits

    def prove(self) -> None:
        """Prove that the store takes rows, by some that are rolled back.

        :raises StorageUnavailable: it does not.
        """

        def write() -> None:
            writer, validator = self._learn()
            with write_transaction(self._engine) as connection:
                fault_search.raise_if_none_passes(
                    connection,
                    lambda connection: probe.write(connection, writer, validator),
                    # An operator's constraint may refuse what is none of his events.
                    others_passed=True,
                )

        try:
            run_transaction(self._settings, write, self._count_retry)
        except StorageUnavailable:
            self.forget()
            raise

    def _count_retry(self, fault: ErrorClass) -> None:
        self.retries[fault] += 1

    def _learn(self) -> _Learned:
        learned = self._learned
        if learned is None:
            with self._engine.connect() as connection:
                self._types.learn(connection)
                learned = _Learned(writer_for(connection, self._settings), Validator(read_limits(connection)))
            self._learned = learned
        return learned
