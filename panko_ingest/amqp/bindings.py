"""Keeping the queue of the pool bound to every control exchange, whatever becomes of these."""

import logging
from collections.abc import Callable, Mapping

from amqp.exceptions import AMQPError, ChannelError, RecoverableConnectionError

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
# Seconds in which queues are read before an exchange is asked about that cost a connection.
_READ_FIRST = 15.0


class Bindings:
    """Binds each exchange at its own pace: what is absent or refused holds up no other.

    :param costly_paces: by exchange, when to ask again about one over which a connection was lost; they
        outlive the session.
    :param again: bind what is bound already again and again; one worker of a daemon is enough for it.
    :param tell: called with an exchange, and why the broker refuses to bind it; None when it no longer does.
    """

    def __init__(
        self,
        topology: Topology,
        keeper: TopologyKeeper,
        costly_paces: Mapping[str, Pace],
        *,
        again: bool,
        tell: Callable[[str, str | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._exchanges = topology.exchanges if topology.pool and topology.declare != "never" else ()
        self._keeper = keeper
        self._costly_paces = costly_paces
        self._again = again
        self._tell = tell
        self._clock = clock
        self.start_over()

    def start_over(self) -> None:
        """Bind all at the next step, as the queue may be a new one."""
        self._at = {name: self._first_at(name) for name in self._exchanges}
        self._absent = {name: Pace(_FIRST_LOOK, _LATER_LOOKS, self._clock) for name in self._exchanges}
        self._refused = {name: Pace(_LATER_LOOKS, _LONGEST_REFUSAL, self._clock) for name in self._exchanges}

    def _first_at(self, exchange: str) -> float:
        pace = self._costly_paces[exchange]
        return self._clock() + max(_READ_FIRST, pace.due_in) if pace.failed_last else 0.0

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
            self._at[exchange] = self._clock() + self._refuse(exchange, self._refused[exchange], refusal)
            return
        except RecoverableConnectionError:  # the broker goes, or its operator wants us to
            raise
        except (AMQPError, TimeoutError) as error:
            self._refuse(exchange, self._costly_paces[exchange], error, "the connection was lost over it: ")
            raise
        if self._refused[exchange].failed_last or self._costly_paces[exchange].failed_last:
            self._refused[exchange].succeeded()
            self._costly_paces[exchange].succeeded()
            self._tell(exchange, None)
        if not there:
            self._at[exchange] = self._clock() + self._absent[exchange].failed()
        elif self._again:
            self._absent[exchange].succeeded()
            self._at[exchange] = self._clock() + _BIND_AGAIN
        else:
            del self._at[exchange]

    def _refuse(self, exchange: str, pace: Pace, error: Exception, cost: str = "") -> float:
        """Tell of a refusal, once; return the seconds until the exchange is to be asked about again."""
        if not pace.failed_last:
            self._tell(exchange, f"{cost}{error}")
            LOG.warning(
                "The broker refuses to bind the pool's queue to %r: %s%s: %s",
                exchange,
                cost,
                type(error).__name__,
                error,
            )
        return pace.failed()
