"""Keeping the queue of the pool bound to every control exchange, whatever becomes of these."""

import logging
import random
from collections.abc import Callable, Iterator

from amqp.exceptions import AMQPError, ChannelError, RecoverableConnectionError

from panko_ingest.amqp import pauses
from panko_ingest.amqp.topology import Topology, TopologyKeeper

LOG = logging.getLogger(__name__)

# An exchange that was deleted and made again has lost its bindings, of which nobody is told.
_BIND_AGAIN = 10.0
# The one worker that looks after that may have no connection; the others need not cost the broker as much.
_BIND_AGAIN_BESIDES = 300.0
# Seconds that one step may take of the time in which deliveries are waited for.
_TURN = 0.2
_COST = "the connection was lost over it: "
_TIMEOUTS_TOLD = 2


class CostlyExchanges:
    """Those that were asked about when connections were lost, over all sessions of a consumer.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._backoff = pauses.costly(clock)
        self._losses: dict[str, int] = {}
        self._in_a_row = 0

    def __iter__(self) -> Iterator[str]:
        """Yield them, the one that was not asked about for longest first."""
        return iter(tuple(self._losses))

    def __contains__(self, exchange: str) -> bool:
        return exchange in self._losses

    @property
    def any_may_be_one(self) -> bool:
        """Whether connections were lost over several exchanges, and none was bound in between."""
        return self._in_a_row > 1

    @property
    def due_in(self) -> float:
        """Seconds until the first of them is to be asked about."""
        return max(pauses.READ_FIRST, self._backoff.due_in)

    def lost_over(self, exchange: str) -> int:
        """Note that a connection was lost over an exchange; return how often since it was bound."""
        self._losses[exchange] = losses = self._losses.pop(exchange, 0) + 1
        self._in_a_row += 1
        self._backoff.failed()
        return losses

    def bound(self, exchange: str) -> None:
        """Note that an exchange could be asked about."""
        self._in_a_row = 0
        if self._losses.pop(exchange, 0) and not self._losses:
            self._backoff.succeeded()


class Bindings:
    """Binds each exchange at its own pace: what is absent or refused holds up no other.

    :param costly: what is known from the sessions before.
    :param again: look for what is not there, and bind what is bound already, again and again, and tell where
        nothing is there; one worker of a daemon is enough for it, and the others do so rarely.
    :param tell: called with an exchange, and why the broker refuses to bind it, None when it does not;
        returns whether that is news.
    :param tell_unbound: called with the queue, and why nothing gets into it, None when something does;
        returns whether that is news.
    :param where: what the log calls the connection.
    """

    def __init__(
        self,
        topology: Topology,
        keeper: TopologyKeeper,
        costly: CostlyExchanges,
        *,
        again: bool,
        tell: Callable[[str, str | None], bool],
        tell_unbound: Callable[[str, str | None], bool],
        clock: Callable[[], float],
        where: str,
    ) -> None:
        self._pool = topology.pool or ""
        self._exchanges = topology.bound_to
        self._keeper = keeper
        self._costly = costly
        self._again = again
        self._tell = tell
        self._tell_unbound = tell_unbound
        self._clock = clock
        self._where = where
        self._at: dict[str, float] = {}
        self._absent: set[str] = set()
        self._there: set[str] = set()
        self._looking = {name: pauses.absent_exchange(clock) for name in self._exchanges}
        self.start_over()

    @property
    def none_is_known(self) -> bool:
        """Whether there are exchanges to bind, and none of them is known to be there."""
        return bool(self._exchanges) and not self._there

    def start_over(self) -> None:
        """Bind what is there at the next step, as the queue may be a new one; what cost connections last."""
        # A refusal left the old queue bound as it was, but leaves a new one without what is published.
        self._refused = {name: pauses.refused(self._clock) for name in self._exchanges}
        absent = {name: at for name, at in self._at.items() if name in self._absent}
        later = self._clock() + self._costly.due_in
        first = later if self._costly.any_may_be_one else 0.0
        self._at = {name: first for name in self._exchanges if name not in {*self._costly, *self._absent}}
        self._at.update((name, later) for name in self._costly)
        self._at.update(absent)

    def step(self) -> None:
        """Bind what it is time for.

        :raises LINK_ERRORS: the connection is lost.
        """
        started = now = self._clock()
        for exchange, at in sorted(self._at.items(), key=lambda item: item[1]):
            if at > now or now - started > _TURN:
                return
            self._bind(exchange)
            now = self._clock()

    def _bind(self, exchange: str) -> None:
        try:
            self._keeper.open()  # a connection that ends over the channel does not do so over the exchange
            there = self._ask(exchange)
        except ChannelError as refusal:
            self._refuse(exchange, refusal)
            self._at[exchange] = self._clock() + self._refused[exchange].failed()
            self._note_there(exchange)
            return
        self._costly.bound(exchange)
        self._refused[exchange].succeeded()
        self._tell(exchange, None)
        if there:
            self._note_there(exchange)
            self._looking[exchange] = pauses.looking(self._clock)  # if it goes, it is soon looked for
            pause = _BIND_AGAIN
        else:
            self._note_absent(exchange)
            pause = self._looking[exchange].failed()
        if not self._again:
            pause = _BIND_AGAIN_BESIDES * random.uniform(0.5, 1.0)  # not all workers at once
        self._at[exchange] = self._clock() + pause

    def _note_there(self, exchange: str) -> None:
        self._absent.discard(exchange)
        self._there.add(exchange)
        self._tell_unbound(self._pool, None)

    def _note_absent(self, exchange: str) -> None:
        self._absent.add(exchange)
        self._there.discard(exchange)
        if not self._again or len(self._absent) < len(self._exchanges):
            return
        reason = (
            f"none of [notification] notification_control_exchanges is there: {', '.join(self._exchanges)}"
        )
        if self._tell_unbound(self._pool, reason):
            LOG.warning(
                "%s: queue %r of the pool is bound to nothing, and what is published is lost: %s",
                self._where,
                self._pool,
                reason,
            )

    def _ask(self, exchange: str) -> bool:
        try:
            return self._keeper.bind(exchange)
        except (ChannelError, RecoverableConnectionError):  # the latter: the broker goes, or is made to
            raise
        except TimeoutError as error:
            # A network that swallows packets is noticed here, too: it is not the exchange's fault each time.
            if self._costly.lost_over(exchange) >= _TIMEOUTS_TOLD:
                self._refuse(exchange, error, _COST)
            raise
        except AMQPError as error:
            self._costly.lost_over(exchange)
            self._refuse(exchange, error, _COST)
            raise

    def _refuse(self, exchange: str, error: Exception, cost: str = "") -> None:
        if self._tell(exchange, f"{cost}{error}"):
            LOG.warning(
                "The broker refuses to bind the pool's queue to %r: %s%s: %s",
                exchange,
                cost,
                type(error).__name__,
                error,
            )
