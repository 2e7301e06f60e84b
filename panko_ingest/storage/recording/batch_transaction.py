"""One batch of events and dead letters into the database, every one of them accounted for.

Up to three attempts, each a transaction of its own that leaves nothing behind when it fails, but for the
names of new event types, which are committed before:

1. **directly**: a few events, nothing beside them. Those that are new are committed; for the others, and if
   it is refused for what may be in a row, the second attempt follows.
2. **at once**: all rows in the quickest way, all or nothing. Of an event that this way leaves out, what is
   stored under its message_id is looked up: the same event makes it a duplicate, another one a refusal.
3. **one by one where need be**: when the second was refused for what may be in a row. What is stored is
   looked up first and the rest inserted without passing over anything, by halves within savepoints, so that
   each refusal has its reason. Whether it is the row's or the store's ``fault_search`` decides.

A retry (``run_transaction``) begins with the first again. What survives it is what the first has committed:
these events are recorded, and their rows gone from the batch. What a lost answer to COMMIT leaves unknown
shows as duplicates.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from panko_ingest.storage.base import RecordResult
from panko_ingest.storage.database import base as databases, error_classes, fault_search
from panko_ingest.storage.database.engine import unusable_if_interrupted, write_transaction
from panko_ingest.storage.database.pooling import connections_made, may_be_another_server
from panko_ingest.storage.models import DeadLetter
from panko_ingest.storage.recording import probe
from panko_ingest.storage.recording.dead_letters import (
    delete_dead_letters,
    write_dead_letters,
    write_dead_letters_that_can_be,
)
from panko_ingest.storage.recording.event_types import EventTypes
from panko_ingest.storage.recording.stored_events import is_same, look_up, taken_by
from panko_ingest.storage.recording.validation import Row, Validator
from panko_ingest.storage.recording.writers.driver import driver_connection
from panko_ingest.storage.recording.writers.portable import Key, PortableWriter, TypeIds
from panko_ingest.storage.schema.column_limits import read_limits

_LOOKS = 3

OnFailure = Callable[[int, Exception], DeadLetter]


@dataclass(slots=True)
class Outcome:
    """What became of events so far, by their indexes."""

    recorded: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)
    taken: dict[int, Exception] = field(default_factory=dict)
    """Those whose message_id another event has, which is no fault of the store's or of its tables'."""

    @property
    def refused(self) -> dict[int, Exception]:
        """Those that can't be stored, for whatever reason."""
        return self.failed | self.taken

    def result(self) -> RecordResult:
        """Return it as the caller gets it."""
        return RecordResult(
            tuple(sorted(self.recorded)), tuple(sorted(self.duplicates)), tuple(sorted(self.refused.items()))
        )


class LimitsChanged(Exception):
    """Events were refused, and the tables can hold other things than we knew: nothing is stored yet."""


class _LeftOut(Exception):
    """The database took a batch but neither stored nor knows some of its events."""


@dataclass(slots=True)
class BatchTransaction:
    """One list of events on its way into the database; storing it may be tried any number of times."""

    engine: sa.Engine
    types: EventTypes
    writer: PortableWriter
    validator: Validator
    rows: list[Row]
    """Those to be stored, sorted by the writer's key."""
    failures: dict[int, Exception]
    """Those that can't be, which was found before."""
    letters: Sequence[DeadLetter]
    on_failure: OnFailure | None
    replayed: Sequence[int]
    """Of events that dead letters became, the letters' ids: each is deleted if its event is stored."""
    tells_apart: bool
    """Whether another event with a stored one's message_id is refused, or a duplicate as it is to Panko."""
    limits_may_change: bool = True
    """Whether an event that is refused is worth a look at what the tables can hold by now."""
    recorded: list[int] = field(default_factory=list)

    def store(self) -> Outcome:
        """Store the batch by the first attempt that the database takes.

        :raises StorageUnavailable: the store refuses for reasons of its own.
        :raises LimitsChanged: events are refused that were made for tables as they no longer are.
        """
        try:
            if self._may_go_directly():
                self._write_directly()
        except Exception as error:  # noqa: BLE001 - judged there
            self._go_on_after(error)
        try:
            return self._transaction(at_once=True)
        except Exception as error:  # noqa: BLE001 - judged there
            self._go_on_after(error)
        return self._transaction(at_once=False)

    def _go_on_after(self, error: Exception) -> None:
        """Return if the next attempt may tell whose fault it is; raise the error if that is known.

        :raises Exception: the same one.
        """
        if isinstance(error, _LeftOut) or error_classes.is_unknown_event_type(error):
            # An event type may be gone that we still know the id of.
            self.types.forget()
        elif not fault_search.may_be_a_rows(error):
            raise error

    def _may_go_directly(self) -> bool:
        """Tell whether the batch is but a few events, of which none is there twice."""
        rows = self.rows
        return (
            0 < len(rows) <= self.writer.most_directly
            and not self.letters
            and not self.failures
            and not self.replayed
            and len({row.message_id for row in rows}) == len(rows)
        )

    def _write_directly(self) -> None:
        connections = connections_made(self.engine)
        ids: TypeIds = self.types.resolve({row.event_type for row in self.rows})
        with self.engine.connect() as connection, unusable_if_interrupted(connection):
            ids = self._confirmed(connection, ids, connections)
            with driver_connection(connection) as driver:
                written = self.writer.write_directly(driver, self.rows, ids)
        self.recorded += [row.index for row in self.rows if self.writer.key(row) in written]
        self.rows = [row for row in self.rows if self.writer.key(row) not in written]

    def _transaction(self, *, at_once: bool) -> Outcome:
        """Make the second attempt, or the third."""
        outcome = Outcome(recorded=list(self.recorded), failed=dict(self.failures))
        if not self.rows and not self.letters and not (outcome.failed and self.on_failure):
            return outcome
        connections = connections_made(self.engine)
        type_ids = self._type_ids(at_once, outcome)
        write = self._write_at_once if at_once else self._write_one_by_one
        with write_transaction(self.engine) as connection:
            type_ids = self._confirmed(connection, type_ids, connections)
            pending = [row for row in self.rows if row.event_type in type_ids]
            while pending:
                firsts, others = self._first_of_each(pending)
                absent = write(connection, firsts, type_ids, outcome)
                repeated = [row for row in others if self.writer.key(row) not in absent]
                settled = self._settle(connection, repeated, type_ids, outcome, left_out=True)
                pending = [row for row in others if row.index not in settled]
            if len(outcome.failed) > len(self.failures):
                fault_search.raise_if_none_passes(
                    connection,
                    lambda connection: probe.write(connection, self.writer, self.validator),
                    others_passed=len(outcome.recorded) > len(self.recorded),
                )
                if self.limits_may_change and read_limits(connection) != self.validator.limits:
                    raise LimitsChanged
            if outcome.duplicates:
                databases.of(connection).commit_after_what_was_found(connection)
            letters = list(self.letters)
            if self.on_failure:
                letters += [self.on_failure(index, error) for index, error in outcome.refused.items()]
            write_letters = write_dead_letters if at_once else write_dead_letters_that_can_be
            write_letters(connection, letters, self.validator)
            refused = outcome.refused
            delete_dead_letters(
                connection, [letter for index, letter in enumerate(self.replayed) if index not in refused]
            )
        return outcome

    def _type_ids(self, at_once: bool, outcome: Outcome) -> TypeIds:
        """Return the ids of the batch's event types; in the third attempt without those that are refused."""
        names = {row.event_type for row in self.rows}
        if at_once:
            return self.types.resolve(names)
        ids: dict[str, int] = {}
        for name in sorted(names):
            try:
                ids |= self.types.resolve([name])
            except Exception as error:
                fault_search.raise_if_of_the_store(error)
                if not fault_search.may_be_a_rows(error):
                    raise
                self.types.raise_if_none_is_admitted(error)
                refusal = fault_search.as_refusal(error)
                outcome.failed |= {row.index: refusal for row in self.rows if row.event_type == name}
        return ids

    def _confirmed(self, connection: sa.Connection, type_ids: TypeIds, connections: int) -> TypeIds:
        """Return ids that hold for the transaction: after a failover they may stand for other types."""
        if may_be_another_server(connection, connections):
            return self.types.confirm(connection, type_ids)
        return type_ids

    def _first_of_each(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Split rows into the first of each key, in their order, and the others."""
        firsts: dict[Key, Row] = {}
        others = [row for row in rows if firsts.setdefault(self.writer.key(row), row) is not row]
        return list(firsts.values()), others

    def _write_at_once(
        self, connection: sa.Connection, rows: list[Row], type_ids: TypeIds, outcome: Outcome
    ) -> Collection[Key]:
        """Write rows, all or none; return the keys of those that are not stored now: none."""
        for _ in range(_LOOKS):
            written = self.writer.write(connection, rows, type_ids)
            outcome.recorded += [row.index for row in rows if self.writer.key(row) in written]
            rows = [row for row in rows if self.writer.key(row) not in written]
            settled = self._settle(connection, rows, type_ids, outcome, left_out=True)
            # What was stored when we wrote may have been expired when we looked: then it is written now.
            rows = [row for row in rows if row.index not in settled]
            if not rows:
                return ()
        raise _LeftOut

    def _write_one_by_one(
        self, connection: sa.Connection, rows: list[Row], type_ids: TypeIds, outcome: Outcome
    ) -> Collection[Key]:
        """Write those rows that the database takes; return the keys of the others."""
        # What an operator's constraint would only say at COMMIT could not be told from the others.
        databases.of(connection).check_references_now(connection)
        errors: dict[int, Exception] = {}

        def write(part: list[Row]) -> None:
            self.writer.insert(connection, part, type_ids)

        def note(row: Row, error: Exception) -> None:
            errors[row.index] = error

        for _ in range(_LOOKS):
            settled = self._settle(connection, rows, type_ids, outcome, left_out=False)
            rows = [row for row in rows if row.index not in settled]
            if not rows:
                break
            errors.clear()
            written = [row.index for row in fault_search.find(connection, rows, write, note)]
            outcome.recorded += written
            # It may clash with what another worker has stored since we looked.
            clashing = [row for row in rows if error_classes.is_clash(errors.get(row.index))]
            settled = self._settle(connection, clashing, type_ids, outcome, left_out=True)
            settled.update(written)
            rows = [row for row in rows if row.index not in settled]
            if not clashing:
                break
        outcome.failed |= {row.index: fault_search.as_refusal(errors[row.index]) for row in rows}
        return {self.writer.key(row) for row in rows}

    def _settle(
        self,
        connection: sa.Connection,
        rows: Sequence[Row],
        type_ids: TypeIds,
        outcome: Outcome,
        *,
        left_out: bool,
    ) -> set[int]:
        """Note which rows are stored already, and which can't be since another event has their message_id.

        :param left_out: whether the database has passed over them, or would, for what has their message_id.
        :returns: the indexes of both.
        """
        if not rows:
            return set()
        stored = look_up(connection, {row.message_id for row in rows})
        settled: set[int] = set()
        others: list[Row] = []
        for row in rows:
            type_id = type_ids[row.event_type]
            found = stored.get(row.message_id, [])
            if any(is_same(one, row.event_type, row.generated, type_id) for one in found):
                outcome.duplicates.append(row.index)
                settled.add(row.index)
            elif found:
                others.append(row)
        keeps_out = self.writer.keeps_out(connection) if others and left_out else self._has_its_key
        for row in others:
            in_the_way = [one for one in stored[row.message_id] if keeps_out(row, one.id)]
            if not in_the_way:
                continue
            if self.tells_apart:
                outcome.taken[row.index] = taken_by(in_the_way[0])
            else:
                outcome.duplicates.append(row.index)
            settled.add(row.index)
        return settled

    def _has_its_key(self, row: Row, event_id: int) -> bool:
        return self.writer.key_of(row.message_id, event_id) == self.writer.key(row)
