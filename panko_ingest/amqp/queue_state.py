"""What is known of a queue without reading it."""

from collections.abc import Collection, Mapping
from typing import NamedTuple


class QueueState(NamedTuple):
    """What a broker tells of a queue: messages that no consumer has in hand, and consumers."""

    name: str
    messages: int
    consumers: int

    @property
    def may_be_unknown(self) -> bool:
        """Whether it may be but what a broker says of a quorum queue that has no leader to ask."""
        return not self.messages and not self.consumers


class Known(NamedTuple):
    """What is known of queues besides what AMQP tells.

    :param ours: consumers of ours that each queue has, or that any has; None when that is not known.
    :param bounded: queues that can't grow without end.
    """

    ours: Mapping[str, int] | int | None = None
    bounded: Collection[str] = ()

    def ours_on(self, queue: str) -> int | None:
        """Return how many consumers of a queue are ours; None when that is not known."""
        return self.ours.get(queue, 0) if isinstance(self.ours, Mapping) else self.ours
