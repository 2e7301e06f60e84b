"""How many channels a broker lets a connection have that closes the whole connection over one too many."""

import math
import time
from collections.abc import Callable

from amqp.exceptions import ChannelError

from panko_ingest.backoff import Backoff

# Where there is a limit, to try one channel more costs the connection. A busy broker counts those
# that were just closed: what it allowed at first may be less than what it allows soon after.
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 1800.0
# What comes so long after the last loss has nothing to do with it.
_QUIET = 2 * _LONGEST_PAUSE
# RabbitMQ's words, for the limit of a user and, from 4.0 on, for that of a node.
_TOO_MANY = "number of channels opened"


class ChannelLimit:
    """What is known of such a limit; outlives the connections, each of which asks before it opens a channel.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, clock)
        self._lost_at = 0.0
        self._most = math.inf
        self._why = ""

    def check(self, count: int) -> None:
        """Return if a connection that has so many channels may try to have another one.

        :raises ChannelError: the broker would close the connection.
        """
        if count >= self._most and self._backoff.due_in:
            raise ChannelError(self._why)

    def opened(self, count: int) -> None:
        """Take note of how many channels a connection has by now."""
        if count > self._most:  # Where workers share the limit, it is the room that another's loss made.
            self._most = math.inf

    def closed(self, count: int, error: Exception) -> None:
        """Take note of why a connection was closed that had so many channels and asked for another one."""
        if _TOO_MANY in str(error):
            self._most, self._why = count, str(error)
            now = self._clock()
            if now > self._lost_at + _QUIET:
                self._backoff.succeeded()
            self._lost_at = now
            self._backoff.failed()
