"""Gathering deliveries and what became of them until it is worth a commit. No I/O here."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

from panko_ingest.delivery import Delivery
from panko_ingest.storage.models import DeadLetter, Event


@dataclass(slots=True)
class Batch:
    """Deliveries that are settled together, with what has to be committed before.

    Every delivery stands for one event, one dead letter, or nothing (it was dropped on purpose).
    ``sources[i]`` is the delivery of ``events[i]``. All deliveries are of one session.
    """

    opened_at: float
    deliveries: list[Delivery] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sources: list[Delivery] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    refused: list[DeadLetter] = field(default_factory=list)
    """What became of events that the store does not take."""
    size: int = 0
    handed_over_at: float = 0.0
    """When the recording thread got it, on the same clock as ``opened_at``."""
    session: int = 0
    """The session of its bus in which it can be acknowledged."""
    alone: bool = False
    """Whether it is of one message that a worker may die of, and shares its transaction with none."""

    @property
    def oldest(self) -> datetime.datetime | None:
        """When the oldest of the events was generated, naive UTC; None where there are none."""
        return min((event.generated for event in self.events), default=None)

    @property
    def dropped(self) -> int:
        """How many deliveries are to be acknowledged without anything being stored."""
        return len(self.deliveries) - len(self.events) - len(self.dead_letters)


class Batcher:
    """Fills one batch at a time; says when it is full, or old enough to go.

    :param max_count: deliveries in a batch at most.
    :param max_age: seconds after which an incomplete batch is due.
    :param max_bytes: bytes held above which a batch is full.
    :param clock: monotonic seconds.
    """

    def __init__(self, max_count: int, max_age: float, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_count = max_count
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._clock = clock
        self._batch = Batch(opened_at=0.0)

    def __len__(self) -> int:
        return len(self._batch.deliveries)

    def add(self, delivery: Delivery, outcome: Event | DeadLetter | None) -> bool:
        """Add a delivery and what it became, None for what is not to be stored; return whether it is full."""
        batch = self._batch
        if not batch.deliveries:
            batch.opened_at = self._clock()
        batch.deliveries.append(delivery)
        batch.size += delivery.bytes_held
        if isinstance(outcome, Event):
            batch.events.append(outcome)
            batch.sources.append(delivery)
        elif outcome is not None:
            delivery.is_dead = True
            batch.dead_letters.append(outcome)
        return len(batch.deliveries) >= self._max_count or batch.size >= self._max_bytes

    @property
    def filling(self) -> Batch:
        """The batch as it is now."""
        return self._batch

    @property
    def due(self) -> bool:
        """Whether the first delivery has waited for max_age."""
        batch = self._batch
        return bool(batch.deliveries) and self._clock() - batch.opened_at >= self._max_age

    def take(self) -> Batch:
        """Return the batch as it is, and start an empty one."""
        batch, self._batch = self._batch, Batch(opened_at=0.0)
        return batch
