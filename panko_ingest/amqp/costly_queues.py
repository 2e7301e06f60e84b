"""Queues over which connections were lost, as when their processes hang at the broker."""

from collections.abc import Callable, Iterable

from panko_ingest.amqp import pauses
from panko_ingest.backoff import Backoff

# With fewer, those that hang are found out sooner than the others would be asked about.
_SEVERAL = 3


class CostlyQueues:
    """What is known of that over all sessions of a consumer.

    Where connections were lost over several, each of the others that has not answered since may be the next
    one, and is asked about when those that have are read.

    :param clock: monotonic seconds.
    """

    def __init__(self, queues: Iterable[str], clock: Callable[[], float]) -> None:
        self._backoffs = {name: pauses.costly(clock) for name in queues}
        self._answered: set[str] = set()
        self._answered_since: set[str] = set()

    def __contains__(self, queue: str) -> bool:
        """Whether a connection was lost over a queue that is not read again yet."""
        return self._backoffs[queue].failed_last

    def may_hang(self, queue: str) -> bool:
        """Whether it is one of these, or may be the next one."""
        if queue in self:
            return True
        if queue in self._answered or queue in self._answered_since:
            return False
        return sum(backoff.failed_last for backoff in self._backoffs.values()) >= _SEVERAL

    def due_in(self, queue: str) -> float:
        """Seconds until a queue may be asked about again."""
        return self._backoffs[queue].due_in

    def answered(self, queue: str) -> None:
        """Note that the broker told of a queue, whatever it was."""
        self._answered_since.add(queue)

    def lost_over(self, queue: str) -> Backoff:
        """Note that a connection was lost over a queue; return what says when to ask again about it."""
        self._answered, self._answered_since = self._answered_since - {queue}, set()
        return self._backoffs[queue]

    def settled(self, queue: str) -> None:
        """Note that a queue is read again, or gone."""
        self._backoffs[queue].succeeded()
