"""A simulated event store: one database, and the connections that workers have to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from panko_ingest.storage import (
    MessageIdTaken,
    RecordResult,
    Statistics,
    StorageError,
    StorageUnavailable,
)
from panko_ingest.storage.models import DeadLetter, Event
from tests.simulation.world import World


@dataclass
class Database:
    """What is committed, and what is wrong with the database just now.

    :param away: every call is refused at once.
    :param operator: the refusal asks for somebody to come.
    :param frozen: calls wait, until the patience of the client is over.
    :param slow: seconds that a transaction takes.
    :param reads_only: it answers, but takes no rows.
    :param most_rows: what writes more of them runs into a timeout.
    :param loses_answers: share of commits whose answer is lost.
    """

    world: World
    events: dict[str, int] = field(default_factory=dict)
    """How often each message_id was stored."""
    types: dict[str, str] = field(default_factory=dict)
    """The type of the event that has a message_id."""
    letters: dict[bytes, DeadLetter] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """The messages that are dead letters."""
    away: bool = False
    operator: bool = False
    frozen: bool = False
    reads_only: bool = False
    slow: float = 0.004
    most_rows: int | None = None
    loses_answers: float = 0.0
    transactions: int = 0
    on_commit: Callable[[], None] = lambda: None

    def keep(self, letter: DeadLetter) -> None:
        """Commit a dead letter."""
        self.letters[letter.digest] = letter
        self.told.add(self.world.message_of[letter.digest])


class SimulatedConnection:
    """A worker's connection to the database.

    :param alive: whether the worker's process still lives: a transaction of a dead one is rolled back.
    :param die: ends it, in the middle of storing an event whose type begins with "fell".
    """

    PATIENCE = 20.0

    def __init__(
        self,
        database: Database,
        refused: Callable[[Event], bool],
        alive: Callable[[], bool],
        die: Callable[[], None],
    ) -> None:
        self._database = database
        self._refused = refused
        self._alive = alive
        self._die = die

    def ping(self) -> None:
        """Ask whether the store answers."""
        self._answer(takes_rows=False)

    def prove_rows(self) -> None:
        """Ask whether the store takes rows."""
        self._answer()

    def record_events(
        self,
        event_models: Sequence[Event],
        dead_letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        """Write in one transaction, as the contract says."""
        self._answer()
        if not event_models and not dead_letters:
            return RecordResult()
        database = self._database
        if any(event.event_type.startswith("fell") for event in event_models):
            self._die()
        if database.most_rows is not None and len(event_models) + len(dead_letters) > database.most_rows:
            database.world.sleep(3.0)
            raise StorageUnavailable("the statement took longer than statement_timeout")
        recorded, duplicates, failed = [], [], []
        new: dict[str, str] = {}
        letters = list(dead_letters)
        for index, event in enumerate(event_models):
            there = database.types.get(event.message_id) or new.get(event.message_id)
            taken = there is not None and there != event.event_type
            if (taken or self._refused(event)) and on_failure is not None:
                error = MessageIdTaken(f"it is that of {there}") if taken else StorageError("it does not fit")
                failed.append((index, error))
                letters.append(on_failure(index, error))
            elif there is not None:
                duplicates.append(index)
            else:
                new[event.message_id] = event.event_type
                recorded.append(index)
        if not self._alive():
            raise StorageUnavailable("the process is dead")
        again = [message_id for message_id in new if message_id in database.events]
        assert not again, "the simulated store is one transaction after the other"
        for message_id in new:
            database.events[message_id] = database.events.get(message_id, 0) + 1
        database.types |= new
        for letter in letters:
            database.keep(letter)
        database.transactions += 1
        database.on_commit()
        if database.loses_answers and database.world.random.random() < database.loses_answers:
            database.world.sleep(database.world.random.uniform(0.0, 1.0))
            raise StorageUnavailable("the connection broke while COMMIT was under way")
        return RecordResult(tuple(recorded), tuple(duplicates), tuple(failed))

    def statistics(self) -> Statistics:
        """Nothing is counted here."""
        return Statistics()

    def close(self) -> None:
        """Nothing is open."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the delivery path calls {name}, which the simulated store does not have")

    def _answer(self, *, takes_rows: bool = True) -> None:
        """Take the time that a transaction takes, and refuse it where something is wrong."""
        database, world = self._database, self._database.world
        world.sleep(database.slow * world.random.uniform(0.5, 1.5))
        waited = 0.0
        while database.frozen and waited < self.PATIENCE:
            world.sleep(1.0)
            waited += 1.0
        if database.frozen:
            raise StorageUnavailable("no answer")
        if database.away or (database.reads_only and takes_rows):
            raise StorageUnavailable("the database refuses", operator=database.operator)
