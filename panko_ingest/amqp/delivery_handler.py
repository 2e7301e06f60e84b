"""What takes the deliveries of a consumer, and says how many may come."""

from collections.abc import Callable, Sequence
from typing import Protocol

from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery


class DeliveryHandler(Protocol):
    """Where deliveries go, and where the batches come from that may be acknowledged."""

    def call_when_settled(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, from any thread, whenever a poll would return a batch that is committed."""

    def ready(self) -> bool:
        """Whether the store can take events now."""

    def reset(self) -> None:
        """Forget all that is not committed: the broker delivers it again over another connection."""

    def opened(self, queue: str) -> None:
        """Take note that a queue is read over a new channel from now on."""

    def prefetch(self, queue: str) -> int:
        """Return how many unacknowledged messages a queue may send now; 0: read nothing."""

    def following(self, queue: str, prefetch: int) -> None:
        """Take note of how many the broker was told that a queue may send."""

    def accept(self, delivery: Delivery) -> None:
        """Take one delivery."""

    def poll(self, *, eager: bool) -> Sequence[Batch]:
        """Move things on; return the batches that were committed since the last poll.

        :param eager: nothing more is at hand: what there is may go.
        """

    def waiting(self) -> bool:
        """Whether an eager poll would move something on."""

    def must_give_back(self) -> bool:
        """Whether to give the held messages back before the broker takes them away."""

    def probing(self) -> bool:
        """Whether what is read now is only a try: the bus does not count as consumed."""

    def flush(self) -> bool:
        """Hand over what is left, for the end is near; return whether nothing is outstanding."""
