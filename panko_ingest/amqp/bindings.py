"""Keeping the queue of the pool bound to every control exchange, whatever becomes of these."""

import logging
from collections.abc import Callable

from amqp.exceptions import ChannelError

from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.backoff import Pace

LOG = logging.getLogger(__name__)

# An exchange that was deleted and made again has lost its bindings, of which nobody is told.
_BIND_AGAIN = 10.0
_FIRST_LOOK = 1.0
_LATER_LOOKS = 10.0
_LONGEST_REFUSAL = 60.0
# Seconds that one step may take of the time in which deliveries are waited for.
_TURN = 0.2


class Bindings:
    """Binds each exchange at its own pace: what is absent or refused holds up no other.

    :param again: bind what is bound already again and again; one worker of a daemon is enough for it.
    :param tell: called with an exchange, and why the broker refuses to bind it; None when it no longer does.
    """

    def __init__(
        self,
        topology: Topology,
        keeper: TopologyKeeper,
        *,
        again: bool,
        tell: Callable[[str, str | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._exchanges = topology.exchanges if topology.pool and topology.declare != "never" else ()
        self._keeper = keeper
        self._again = again
        self._tell = tell
        self._clock = clock
        self.start_over()

    def start_over(self) -> None:
        """Bind all at the next step, as the queue may be a new one."""
        self._at = dict.fromkeys(self._exchanges, 0.0)
        self._absent = {name: Pace(_FIRST_LOOK, _LATER_LOOKS, self._clock) for name in self._exchanges}
        self._refused = {name: Pace(_LATER_LOOKS, _LONGEST_REFUSAL, self._clock) for name in self._exchanges}

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
            there = self._keeper.bind(exchange)
        except ChannelError as refusal:
            if not self._refused[exchange].failed_last:
                self._tell(exchange, str(refusal))
                LOG.warning("The broker refuses to bind the pool's queue to %r: %s", exchange, refusal)
            self._at[exchange] = self._clock() + self._refused[exchange].failed()
            return
        if self._refused[exchange].failed_last:
            self._refused[exchange].succeeded()
            self._tell(exchange, None)
        if not there:
            self._at[exchange] = self._clock() + self._absent[exchange].failed()
        elif self._again:
            self._absent[exchange].succeeded()
            self._at[exchange] = self._clock() + _BIND_AGAIN
        else:
            del self._at[exchange]
