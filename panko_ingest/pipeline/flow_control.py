"""How much of a bus may be in hand: prefetches of its queues that grow with commits. No I/O here.

Whatever is in hand when a connection or a worker is lost goes back to the broker, and a quorum queue counts
that for each message and drops what came back too often. So a queue is read with a small prefetch after each
start and each reconnect, and with one of 1 where messages came back again and again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

FIRST_PREFETCH = 16
"""Messages that a queue may send when it begins to be read."""

_GROWTH = 4
# Prefetches that must fit into the budget's bytes before a shrunk one is doubled again.
_GROW_AFTER = 10
# A message that came back so often is read alone: nothing is known of its queue's limit, which may be 3.
_ALONE_AFTER = 3
_FEW_AFTER = 2
# Messages in a row that did not come back, after which there is nothing to be careful of: each queue sends
# its own in turn.
_ENOUGH_NEW = 10
_BUSY_FOR = 5.0


class Budget:
    """What all buses of a worker may hold together. Each bus's thread reads what the others hold.

    :param messages: unacknowledged ones, of all queues that have a backlog together.
    :param size: bytes in hand above which reading stops until they are settled.
    """

    def __init__(self, messages: int, size: int) -> None:
        self.messages = messages
        self.size = size
        self._flows: list[FlowControl] = []

    def join(self, flow: "FlowControl") -> None:
        """Count what a bus holds, too."""
        self._flows.append(flow)

    def prefetch(self) -> int:
        """Return how many messages a queue may send: a part for each that has a backlog."""
        # In steps (1, 2, 3, 4, 6, 8, 12...), as each change of a prefetch stops its consumer for a moment.
        busy = max(1, sum(flow.busy_queues for flow in self._flows))
        parts = 1 << (busy - 1).bit_length()
        if busy <= parts * 3 // 4:
            parts = parts * 3 // 4
        return max(1, self.messages // parts)

    def is_exceeded_by(self, flow: "FlowControl") -> bool:
        """Whether there is too much in hand, and this bus has more than its part of it."""
        if flow.bytes * len(self._flows) <= self.size:  # so it is nearly always, and asked for each message
            return False
        held = sum(other.bytes for other in self._flows)
        sharing = sum(other.bytes > 0 for other in self._flows)
        return held > self.size and flow.bytes * sharing > self.size


@dataclass(slots=True)
class _Queue:
    ramp: int = FIRST_PREFETCH
    """What its prefetch may be after so many commits."""
    committed: int = 0
    prefetch: int = 0
    """What the broker was told."""
    in_hand: int = 0
    full_at: float = float("-inf")
    """When all that it may send was in hand last."""


class FlowControl:
    """Says how many messages each queue of one bus may send.

    :param budget: of all buses of the worker.
    :param clock: monotonic seconds.
    :param deaths: returns how many workers died so far.
    """

    def __init__(
        self, budget: Budget, clock: Callable[[], float], deaths: Callable[[], int] = lambda: 0
    ) -> None:
        self.messages = 0
        self.bytes = 0
        self.paused = False
        """Whether nothing is read before all in hand is settled."""
        self._budget = budget
        self._clock = clock
        self._deaths = deaths
        self._deaths_known = 0
        self._queues: dict[str, _Queue] = {}
        self._fitting = budget.messages
        self._fitted = 0
        self._careful = budget.messages
        self.after_death = False
        """Whether what is delivered again may be what a worker died of lately."""
        self._new_in_a_row = 0
        budget.join(self)

    @property
    def busy_queues(self) -> int:
        """How many queues had more to send than they may, some seconds ago at most."""
        since = self._clock() - _BUSY_FOR
        return sum(queue.full_at >= since for queue in list(self._queues.values()))

    @property
    def prefetches(self) -> dict[str, int]:
        """What each queue may send now."""
        return {name: queue.prefetch for name, queue in list(self._queues.items())}

    @property
    def waits_for_acks(self) -> bool:
        """Whether a queue sends no more before something of it is acknowledged."""
        return any(0 < queue.prefetch <= queue.in_hand for queue in self._queues.values())

    def reset(self) -> None:
        """Begin anew: nothing is in hand, and no queue is read."""
        self.messages = self.bytes = 0
        self.paused = False
        self._queues.clear()

    def opened(self, queue: str) -> None:
        """Begin a queue anew; what is in hand of it still counts until it is settled."""
        state = self._queues.setdefault(queue, _Queue())
        state.ramp, state.committed = FIRST_PREFETCH, 0

    def following(self, queue: str, prefetch: int) -> None:
        """Take note of what the broker was told."""
        self._queues[queue].prefetch = prefetch

    def prefetch(self, queue: str) -> int:
        """Return how many unacknowledged messages a queue may send; 0 for none before all is settled."""
        if self._deaths() != self._deaths_known:
            self._deaths_known = self._deaths()
            self.after_death, self._new_in_a_row = True, 0
            self._be_careful(1)
        if self.paused:
            if self.messages:
                return 0
            self.paused = False
        return min(self._queues[queue].ramp, self._fitting, self._careful, self._budget.prefetch())

    def received(self, queue: str, size: int, returns: int, redelivered: bool = False) -> bool:
        """Count a message; return whether it is one too many for the budget's bytes.

        :param returns: how often it came back, where its queue counts that.
        :param redelivered: whether it came back at all.
        """
        self.messages += 1
        self.bytes += size
        state = self._queues[queue]
        state.in_hand += 1
        if state.in_hand >= state.prefetch:
            state.full_at = self._clock()
        if returns or self._careful < self._budget.messages:
            self._look_at_returns(returns, redelivered)
        if self.paused or not self._budget.is_exceeded_by(self):
            return False
        # As many as would have fitted, and room for bigger ones.
        self._fitting = min(self._budget.messages, max(1, self.messages // 2))
        self._fitted = 0
        self.paused = True
        return True

    def settled(self, messages: Mapping[str, int], size: int) -> None:
        """Count what is committed, by queue: it is in hand no more, and prefetches grow by it."""
        for name, count in messages.items():
            state = self._queues[name]
            if state.in_hand >= state.prefetch:  # and was so all the time that the store was away
                state.full_at = self._clock()
            state.in_hand -= count
            state.committed += count
            if state.committed * 2 >= state.ramp:
                state.ramp = min(self._budget.messages, state.ramp * _GROWTH)
                state.committed = 0
            self.messages -= count
            self._fitted += count
        self.bytes -= size
        if not self.paused and self._fitted >= _GROW_AFTER * self._fitting:
            self._fitting = min(self._budget.messages, 2 * self._fitting)
            self._fitted = 0

    def _look_at_returns(self, returns: int, redelivered: bool) -> None:
        if returns >= _ALONE_AFTER or ((returns or redelivered) and self.after_death):
            self._be_careful(1)
        elif returns >= _FEW_AFTER:
            self._be_careful(FIRST_PREFETCH)
        else:
            self._new_in_a_row += 1
            if self._new_in_a_row >= _ENOUGH_NEW:
                self._careful, self.after_death = self._budget.messages, False

    def _be_careful(self, prefetch: int) -> None:
        """Read on with so small a prefetch until messages come that did not come back.

        After a death one of those that come back may be what the worker died of: its neighbours do so no
        more than once for each worker.
        """
        self._new_in_a_row = 0
        if prefetch < self._careful:
            self._careful = prefetch
            self.paused = any(queue.prefetch > prefetch for queue in self._queues.values())
