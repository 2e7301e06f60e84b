"""One queue of a session: its channel, its consumer, and what of it is not acknowledged yet."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from amqp.exceptions import AMQPError, ChannelError, PreconditionFailed

from panko_ingest.amqp.link import CONSUMER_TIMEOUT, IS_STREAM, PRIORITY, Channel, Link
from panko_ingest.amqp.topology import TopologyKeeper
from panko_ingest.backoff import Pace
from panko_ingest.delivery import Delivery

LOG = logging.getLogger(__name__)

# A quorum queue of RabbitMQ 3.10 that is deleted and at once made again tells its consumers nothing, counts
# them as consumers of the new queue, and its messages never come.
_RENEW_AFTER = 60.0


class QueueChannel:
    """Reads one queue over a channel of its own, so that a refusal of it costs no other queue.

    :param pace: when to try again a queue that is absent or refused; outlives the session.
    :param numbers: gives each channel its number.
    :param receive: takes the deliveries.
    :param tell: called with the queue, and why the broker refuses it; None when it no longer does.
    :param where: what the log calls the connection.
    :param timeout: seconds that a delivery may be unacknowledged, which the broker is asked for.
    """

    def __init__(
        self,
        queue: str,
        link: Link,
        keeper: TopologyKeeper,
        pace: Pace,
        *,
        numbers: Iterator[int],
        receive: Callable[[Delivery], None],
        tell: Callable[[str, str | None], None],
        clock: Callable[[], float],
        where: str,
        timeout: float,
    ) -> None:
        self.queue = queue
        self.absent = False
        """Whether it was looked for and is not there."""
        self.window = 0
        """How many messages the broker may leave unacknowledged; 0 while nothing is consumed."""
        self._link = link
        self._keeper = keeper
        self._pace = pace
        self._numbers = numbers
        self._receive = receive
        self._tell = tell
        self._clock = clock
        self._where = where
        self._timeout: float | None = timeout
        self._channel: Channel | None = None
        self._number = 0
        self._tags = itertools.count(1)
        self._tag = ""
        self._unacknowledged = 0
        self._acknowledged: Any = 0  # the tag up to which none is open
        self._owed: list[Delivery] = []
        self._heard_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is a channel to consume and to acknowledge over."""
        return self._channel is not None

    def open(self) -> bool:
        """Find the queue and open a channel for it, if it is time to; return whether this was done.

        :raises LINK_ERRORS: the connection is lost.
        """
        if self._channel is not None or self._pace.due_in:
            return False
        try:
            self.absent = not self._keeper.find(self.queue)
            if self.absent:
                self._pace.failed()
                return False
            self._channel = self._link.channel()
        except ChannelError as refusal:
            self._refuse(refusal)
            return False
        self._number = next(self._numbers)
        self._heard_at = self._clock()
        self._unacknowledged = self._acknowledged = 0
        return True

    def owe(self, deliveries: Sequence[Delivery]) -> None:
        """Take back deliveries that may be acknowledged; those of other channels are left out."""
        self._owed += [delivery for delivery in deliveries if delivery.channel == self._number]

    def follow(self, window: int) -> int:
        """Acknowledge what is owed, and consume with as large a window as is allowed now.

        To change a window is to cancel the consumer, and a quorum queue counts what is on its way just then
        as given back. So it is changed while all of it is in hand, and nothing is on its way; only to stop,
        which is 0, waits for nothing.

        :returns: how many deliveries were acknowledged.
        :raises LINK_ERRORS: the connection is lost.
        """
        if self._channel is None:
            self._owed.clear()
            return 0
        try:
            if self._channel.refusal is not None:
                raise self._channel.refusal
            changes = self._may_change_to(window)
            if changes and self._tag:
                self._channel.basic_cancel(self._tag)
                self._tag, self.window = "", 0
            acknowledged = self._acknowledge()
            if changes and window:
                self._consume(self._channel, window)
        except AMQPError as error:
            if error is not self._channel.refusal and not isinstance(error, ChannelError):
                # What the broker answers to a question about this queue may end the whole connection.
                self._pace.failed()
                raise
            self._refuse(error)
            return 0
        return acknowledged

    def _may_change_to(self, window: int) -> bool:
        if window == self.window or not window:
            return window != self.window
        if not self.window:
            return self._unacknowledged <= window
        # What a consumer had before this one counts towards no window: it has to be acknowledged first.
        return self._unacknowledged == self.window

    def renew(self) -> bool:
        """Give up a channel over which nothing came for long, to be opened anew; return whether it was.

        :raises LINK_ERRORS: the connection is lost.
        """
        if not self.window or self._unacknowledged or self._clock() < self._heard_at + _RENEW_AFTER:
            return False
        self._heard_at = self._clock()
        channel = self._channel
        if channel is None or channel.refusal is not None:
            return False
        channel.basic_cancel(self._tag)
        self._tag, self.window = "", 0
        if not self._unacknowledged:  # or something came after all, and is acknowledged over this channel
            self._channel, self._number = None, 0
            channel.close()
        return True

    def _consume(self, channel: Channel, window: int) -> None:
        # Never the same tag again: RabbitMQ 3.10's channel crashes when a quorum queue's consumer is
        # cancelled and comes back under its tag while deliveries are under way.
        tag = f"panko-ingest-{self._number}-{next(self._tags)}"
        channel.basic_qos(0, window, False)
        try:
            self._link.consume(channel, self.queue, tag, self._number, self._take, self._timeout)
        except PreconditionFailed as refusal:
            if PRIORITY in str(refusal):
                raise ChannelError(IS_STREAM) from None
            # RabbitMQ 4.3 lets the consumers of quorum queues ask; those of classic queues have no time limit
            # there, and are refused. Before, it was ignored.
            if self._timeout is None or CONSUMER_TIMEOUT not in str(refusal):
                raise
            self._channel, self._number, self._timeout = None, 0, None
            return
        self._tag, self.window = tag, window
        self._tell(self.queue, None)

    def _take(self, delivery: Delivery) -> None:
        self._unacknowledged += 1
        self._receive(delivery)

    def _acknowledge(self) -> int:
        owed, self._owed = self._owed, []
        channel = self._channel
        if not owed or channel is None:
            return 0
        first, last = owed[0].tag, owed[-1].tag
        # One ack for all is right only for an unbroken run of tags from the first one open.
        if not self._link.is_virtual and first == self._acknowledged + 1 and last - first + 1 == len(owed):
            channel.basic_ack(last, multiple=True)
            self._acknowledged = last
        else:
            for delivery in owed:
                channel.basic_ack(delivery.tag)
        self._unacknowledged -= len(owed)
        self._heard_at = self._clock()  # nothing is given up while something is unacknowledged
        self._pace.succeeded()
        return len(owed)

    def _refuse(self, refusal: AMQPError) -> None:
        """Give up the channel, and what is unacknowledged with it: the broker delivers it again."""
        channel, self._channel = self._channel, None
        self._number = self.window = 0
        self._tag = ""
        self._owed.clear()
        first = not self._pace.failed_last
        pause = self._pace.failed()
        if first:
            LOG.warning(
                "%s: queue %r is not read: %s: %s; trying again in %.0f s, later each time",
                self._where,
                self.queue,
                type(refusal).__name__,
                refusal,
                pause,
            )
        self._tell(self.queue, str(refusal))
        if channel is not None and refusal is channel.refusal:
            channel.close()  # after a cancel it is still open; closing what is closed is nothing
