"""Recording: a list of events and dead letters into one transaction, every one of them accounted for.

An event ends as recorded, as a duplicate (its message_id was proven to be stored) or as failed. A
batch that the database refuses for what is in it is halved by savepoints until the rows at fault
are found; the rest is stored.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from panko_ingest.storage import faults
from panko_ingest.storage.base import RecordResult
from panko_ingest.storage.bulk import Writer, stored, writer_for
from panko_ingest.storage.dead_letter_writing import delete_dead_letter, write_dead_letters
from panko_ingest.storage.engine import write_transaction
from panko_ingest.storage.errors import StorageError, StorageUnavailable
from panko_ingest.storage.event_types import EventTypes
from panko_ingest.storage.faults import Fault
from panko_ingest.storage.limits import read_limits
from panko_ingest.storage.models import DeadLetter, Event
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings
from panko_ingest.storage.short import ShortWriter, short_writer_for
from panko_ingest.storage.validation import Row, Validator

_LOOKS = 3

OnFailure = Callable[[int, Exception], DeadLetter]


@dataclass(slots=True)
class _Outcome:
    recorded: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)

    def result(self) -> RecordResult:
        return RecordResult(
            tuple(sorted(self.recorded)), tuple(sorted(self.duplicates)), tuple(sorted(self.failed.items()))
        )


class _Skipped(Exception):
    """The database took a batch but neither stored nor knows some of its events."""


class Recorder:
    """Records batches on one engine. What it must know of the database it learns at the first batch."""

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._types = EventTypes(engine)
        self._writer: Writer | None = None
        self._short: ShortWriter | None = None
        self._validator: Validator | None = None
        self.salvaged = 0
        """How many traits were trimmed, changed or dropped so far so that their events could be stored."""
        self.retries: Counter[Fault] = Counter()
        """How many transactions were run again so far, and why."""

    def forget(self) -> None:
        """Learn anew what was known of the database: its schema or its event types have changed."""
        self._types.forget()
        self._writer = self._short = self._validator = None

    def record(
        self,
        events: Sequence[Event],
        letters: Sequence[DeadLetter],
        on_failure: OnFailure | None,
        replayed: int | None = None,
    ) -> RecordResult:
        """Record a batch; see ``Connection.record_events``.

        :param replayed: id of a dead letter to delete in the same transaction, if no event fails.
        """
        writer, validator = run_transaction(self._settings, self._prepare, self._count_retry)
        rows, failures, salvaged = validator.rows(events)
        self.salvaged += salvaged
        rows.sort(key=lambda row: row.message_id)
        batch = _Batch(
            self._engine,
            self._types,
            writer,
            validator,
            rows,
            failures,
            letters,
            on_failure,
            replayed,
            self._short,
        )
        try:
            result = run_transaction(self._settings, batch.store, self._count_retry).result()
        except StorageUnavailable:
            # Who knows what it is when it comes back: another schema, another layout, other event types.
            self.forget()
            raise
        if result.failed and on_failure is None:
            raise result.failed[-1][1]
        return result

    def _count_retry(self, fault: Fault) -> None:
        self.retries[fault] += 1

    def _prepare(self) -> tuple[Writer, Validator]:
        if self._writer is None or self._validator is None:
            with self._engine.connect() as connection:
                self._writer = writer_for(connection)
                self._short = short_writer_for(self._writer)
                self._types.learn(connection)
                self._validator = Validator(read_limits(connection))
        return self._writer, self._validator


@dataclass(slots=True)
class _Batch:
    """One list of events on its way into the database; storing it may be tried any number of times."""

    engine: sa.Engine
    types: EventTypes
    writer: Writer
    validator: Validator
    rows: list[Row]
    failures: dict[int, Exception]
    letters: Sequence[DeadLetter]
    on_failure: OnFailure | None
    replayed: int | None
    short: ShortWriter | None
    recorded: list[int] = field(default_factory=list)

    def store(self) -> _Outcome:
        """Store the batch in one transaction: at once, or where the database refuses it, bit by bit."""
        try:
            if self.short and self._is_at_most(self.short.most):
                self._write_short(self.short)
            return self._transaction(self._write_all)
        except Exception as error:
            if not isinstance(error, _Skipped):
                if faults.classify(error) is not Fault.PERMANENT:
                    raise
                if not self.rows:
                    raise faults.refused(error) from error
            # An event type may be gone that we still know the id of.
            self.types.forget()
        return self._transaction(self._write_what_can_be)

    def _is_at_most(self, most: int) -> bool:
        """Tell whether the batch is but a few events, of which none is there twice."""
        rows = self.rows
        return (
            0 < len(rows) <= most
            and not self.letters
            and not self.failures
            and self.replayed is None
            and len({row.message_id for row in rows}) == len(rows)
        )

    def _write_short(self, short: ShortWriter) -> None:
        """Store those events that are new, in a transaction of their own; the others stay to be looked at."""
        self.types.resolve({row.event_type for row in self.rows})
        written = short.write(self.engine, self.rows, self.types.known)
        self.recorded += [row.index for row in self.rows if row.message_id in written]
        self.rows = [row for row in self.rows if row.message_id not in written]

    def _transaction(self, write: "_Write") -> _Outcome:
        outcome = _Outcome(recorded=list(self.recorded), failed=dict(self.failures))
        if not self.rows and not self.letters and not (outcome.failed and self.on_failure):
            return outcome
        self.types.resolve({row.event_type for row in self.rows})
        with write_transaction(self.engine) as connection:
            pending = self.rows
            while pending:
                firsts, others = _first_of_each(pending)
                there = write(connection, firsts, outcome)
                outcome.duplicates += [row.index for row in others if row.message_id in there]
                pending = [row for row in others if row.message_id not in there]
            letters = list(self.letters)
            if self.on_failure:
                letters += [self.on_failure(index, error) for index, error in outcome.failed.items()]
            write_dead_letters(connection, letters, self.validator)
            if self.replayed is not None and not outcome.failed:
                delete_dead_letter(connection, self.replayed)
        return outcome

    def _write_all(self, connection: sa.Connection, rows: list[Row], outcome: _Outcome) -> set[str]:
        """Write rows, all or none; return the message_ids that are stored now."""
        there = self._write_and_account(connection, rows, outcome, self._write)
        if len(there) < len(rows):
            raise _Skipped
        return there

    def _write_what_can_be(self, connection: sa.Connection, rows: list[Row], outcome: _Outcome) -> set[str]:
        """Write those rows that the database takes; return the message_ids that are stored now."""
        refused: dict[str, Exception] = {}
        if connection.dialect.name == "postgresql":
            # What an operator's constraint would only say at COMMIT could not be told from the others.
            connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

        def write(connection: sa.Connection, rows: list[Row]) -> set[str]:
            rows = [row for row in rows if row.message_id not in refused]
            return self._bisect(connection, rows, refused) if rows else set()

        there = self._write_and_account(connection, rows, outcome, write)
        for row in rows:
            if row.message_id not in there:
                outcome.failed[row.index] = refused.get(row.message_id) or StorageError(
                    "the database did not store it, and gave no reason"
                )
        return there

    def _write_and_account(
        self,
        connection: sa.Connection,
        rows: list[Row],
        outcome: _Outcome,
        write: Callable[[sa.Connection, list[Row]], set[str]],
    ) -> set[str]:
        """Write rows and return the message_ids that are stored now."""
        there: set[str] = set()
        for _ in range(_LOOKS):
            there |= _account(connection, rows, write(connection, rows), outcome)
            # What was stored when we wrote may have been expired when we looked: then it is written now.
            rows = [row for row in rows if row.message_id not in there]
            if not rows:
                break
        return there

    def _bisect(self, connection: sa.Connection, rows: list[Row], refused: dict[str, Exception]) -> set[str]:
        savepoint = connection.begin_nested()
        try:
            written = self._write(connection, rows)
        except Exception as error:
            if faults.classify(error) is not Fault.PERMANENT:
                raise  # what else went wrong may have ended the transaction, and its savepoints
            savepoint.rollback()
            if len(rows) == 1:
                refused[rows[0].message_id] = faults.refused(error)
                return set()
        else:
            savepoint.commit()
            return written
        middle = len(rows) // 2
        return self._bisect(connection, rows[:middle], refused) | self._bisect(
            connection, rows[middle:], refused
        )

    def _write(self, connection: sa.Connection, rows: list[Row]) -> set[str]:
        return self.writer.write(connection, rows, self.types.known)


_Write = Callable[[sa.Connection, list[Row], _Outcome], set[str]]


def _first_of_each(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Split rows, sorted by message_id, into the first of each message_id and the others."""
    firsts: list[Row] = []
    others: list[Row] = []
    last = None
    for row in rows:
        if row.message_id == last:
            others.append(row)
        else:
            firsts.append(row)
            last = row.message_id
    return firsts, others


def _account(connection: sa.Connection, rows: list[Row], written: set[str], outcome: _Outcome) -> set[str]:
    """Note what was recorded and what proves to be a duplicate; return the message_ids of both."""
    outcome.recorded += [row.index for row in rows if row.message_id in written]
    unwritten = [row for row in rows if row.message_id not in written]
    if not unwritten:
        return written
    there = stored(connection, [row.message_id for row in unwritten]).keys()
    outcome.duplicates += [row.index for row in unwritten if row.message_id in there]
    return written | there
