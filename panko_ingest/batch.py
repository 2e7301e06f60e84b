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
    ``sources[i]`` is the delivery of ``events[i]``. All deliveries are of one channel generation.
    """

    opened_at: float
    deliveries: list[Delivery] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sources: list[Delivery] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    size: int = 0
    handed_over_at: float = 0.0
    """When the writer got it, on the same clock as ``opened_at``."""
    dead: int = 0
    """How many of the deliveries became dead letters, known when the batch is recorded."""

    @property
    def generation(self) -> int:
        """The channel generation that its acks belong to."""
        return self.deliveries[0].generation if self.deliveries else 0

    @property
    def oldest(self) -> datetime.datetime | None:
        """When the oldest of the events was generated, naive UTC; None where there are none."""
        return min((event.generated for event in self.events), default=None)

    @property
    def dropped(self) -> int:
        """How many deliveries are to be acknowledged without anything being stored."""
        return len(self.deliveries) - len(self.events) - len(self.dead_letters)


class Batcher:
    """Fills one batch at a time; says when it is full or old enough to go.

    :param max_count: deliveries in a batch at most.
    :param max_age: seconds after which an incomplete batch is due.
    :param max_bytes: bytes of bodies above which a batch is full.
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

    def add_event(self, delivery: Delivery, event: Event) -> None:
        """Add a delivery and the event that it became."""
        batch = self._add(delivery)
        batch.events.append(event)
        batch.sources.append(delivery)

    def add_dead_letter(self, delivery: Delivery, dead_letter: DeadLetter) -> None:
        """Add a delivery that can never become an event."""
        self._add(delivery).dead_letters.append(dead_letter)

    def add_dropped(self, delivery: Delivery) -> None:
        """Add a delivery that the operator does not want stored."""
        self._add(delivery)

    def _add(self, delivery: Delivery) -> Batch:
        batch = self._batch
        if not batch.deliveries:
            batch.opened_at = self._clock()
        batch.deliveries.append(delivery)
        batch.size += len(delivery.body)
        return batch

    @property
    def filling(self) -> Batch:
        """The batch as it is now."""
        return self._batch

    @property
    def full(self) -> bool:
        """Whether the batch has reached its count or its bytes."""
        return len(self._batch.deliveries) >= self._max_count or self._batch.size >= self._max_bytes

    @property
    def due(self) -> bool:
        """Whether the batch is full, or its first delivery has waited for max_age."""
        return self.full or (
            bool(self._batch.deliveries) and self._clock() - self._batch.opened_at >= self._max_age
        )

    def take(self) -> Batch:
        """Return the batch as it is, and start an empty one."""
        batch, self._batch = self._batch, Batch(opened_at=0.0)
        return batch
