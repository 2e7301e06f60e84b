"""One channel of a queue: the consumer that reads over it, and what of it is not acknowledged yet."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from amqp.exceptions import ChannelError, PreconditionFailed

from panko_ingest.amqp.link import CONSUMER_TIMEOUT, IS_STREAM, PRIORITY, Channel, Link
from panko_ingest.delivery import Delivery


class NoTimeoutError(Exception):
    """The broker takes no consumer that asks for a time limit of its own."""


class OpenChannel:
    """Reads a queue over a channel with a prefetch that changes, each time by another consumer.

    :param number: of the channel, which its deliveries carry.
    :param receive: takes the deliveries.
    :param timeout: seconds that a delivery may be unacknowledged, which the broker is asked for.
    :param clings: have a consumer from the first one on also while nothing is to be read, as the queue may
        be one that is deleted, with all that it holds, when its last consumer goes.
    :param beat: called before each question, as a slow broker makes many of them take long.
    :param counts: returns whether the queue counted the return of a delivery; such a queue never goes so.
    """

    def __init__(
        self,
        queue: str,
        link: Link,
        channel: Channel,
        number: int,
        *,
        receive: Callable[[Delivery], None],
        timeout: float | None,
        clings: bool,
        beat: Callable[[], None],
        counts: Callable[[Delivery], bool],
    ) -> None:
        self.number = number
        self.clings = clings
        self.holds = False
        """Whether to have a consumer also while nothing is to be read; for a moment there may be none."""
        self.prefetch = 0
        """How many messages the broker may leave unacknowledged; 0 while nothing is to be read."""
        self.unacknowledged = 0
        self._queue = queue
        self._link = link
        self._channel = channel
        self._receive = receive
        self._timeout = timeout
        self._beat = beat
        self._counts = counts
        self._tags = itertools.count(1)
        self._tag = ""
        self._held: Any = None
        self._owed: list[Delivery] = []
        self._acknowledged: Any = 0  # the tag up to which none is open
        self._ahead: set[Any] = set()  # of tags behind it, those that are not open either

    @property
    def refusal(self) -> Exception | None:
        """Why the broker closed the channel, or cancelled its consumer, unasked."""
        return self._channel.refusal

    def owe(self, deliveries: Sequence[Delivery]) -> None:
        """Take back deliveries that may be acknowledged; those of other channels are left out."""
        self._owed += [delivery for delivery in deliveries if delivery.channel == self.number]

    def follow(self, prefetch: int) -> int:
        """Consume with as large a prefetch as is allowed now, and acknowledge what is owed.

        To change a prefetch takes another consumer, and a quorum queue counts what is on its way to the one
        before it as given back. So it is changed while all of that is in hand, and nothing is on its way;
        only to stop, which is 0, waits for nothing.

        :returns: how many deliveries were acknowledged.
        :raises NoTimeoutError: the channel is closed for what it asked for.
        """
        if not self._may_change_to(prefetch):
            return self.acknowledge()
        if self.clings and self._tag:
            self._replace(prefetch)
            return self.acknowledge()
        self._cancel(self._tag)
        acknowledged = self.acknowledge()
        if prefetch or self.holds:
            self._consume(prefetch)
        self.prefetch = prefetch
        return acknowledged

    def _may_change_to(self, prefetch: int) -> bool:
        if not prefetch:  # also one that holds goes when it need not be there any more
            if self.prefetch or not self._tag:
                return self.prefetch > 0 or self.holds
            return not (self.clings or self.holds)
        if prefetch == self.prefetch:
            return False
        if not self.prefetch:
            return self.unacknowledged <= prefetch
        # What a consumer had before this one counts towards no prefetch: it has to be acknowledged first.
        return self.unacknowledged == self.prefetch

    def _replace(self, prefetch: int) -> None:
        """Have another consumer before the one before it goes, and before room is made for more."""
        before, in_hand = self._tag, self.unacknowledged
        self._consume(prefetch)
        self.prefetch = prefetch
        self._cancel(before)
        if self.unacknowledged == in_hand:
            # A classic queue of RabbitMQ 3.10 with a single active consumer forgets to deliver to the one
            # that is next, and crashes when something is published. A consumer that begins reminds it.
            self._cancel(self._start(1, self._take))

    def hold(self) -> None:
        """Consume, but read nothing yet: one message comes, and none after it."""
        self._consume(0)

    def leave(self) -> None:
        """Consume nothing more; what is in hand may still be acknowledged."""
        self.prefetch = 0
        self._cancel(self._tag)

    def _cancel(self, tag: str) -> None:
        if tag == self._tag:
            self._tag = ""
        if tag:
            self._beat()
            self._channel.basic_cancel(tag)

    def _consume(self, prefetch: int) -> None:
        self._held = None
        self._tag = self._start(prefetch, self._take) if prefetch else self._start(1, self._hold)

    def _start(self, prefetch: int, take: Callable[[Delivery], None]) -> str:
        # Never the same tag again: RabbitMQ 3.10's channel crashes when a quorum queue's consumer is
        # cancelled and comes back under its tag while deliveries are under way.
        tag = f"panko-ingest-{self.number}-{next(self._tags)}"
        self._beat()
        self._channel.basic_qos(0, prefetch, False)
        self._beat()
        try:
            self._link.consume(self._channel, self._queue, tag, self.number, take, self._timeout)
        except PreconditionFailed as refusal:
            if PRIORITY in str(refusal):
                raise ChannelError(IS_STREAM) from None
            # RabbitMQ 4.3 lets the consumers of quorum queues ask; those of classic queues have no time limit
            # there, and are refused. Before, it was ignored.
            if self._timeout is None or CONSUMER_TIMEOUT not in str(refusal):
                raise
            raise NoTimeoutError from None
        return tag

    def _take(self, delivery: Delivery) -> None:
        self.unacknowledged += 1
        self._receive(delivery)

    def _hold(self, delivery: Delivery) -> None:
        """Take the one delivery that keeps others from coming until it is acknowledged."""
        self._held = delivery.tag
        if delivery.returns and self._counts(delivery):
            self.clings = False
        self._take(delivery)

    def acknowledge(self) -> int:
        """Acknowledge what is owed, and return how many deliveries it was."""
        owed, self._owed = self._owed, []
        if owed and (self.clings or self.holds) and self._held is not None and not self.prefetch:
            self._owed = [delivery for delivery in owed if delivery.tag == self._held]
            owed = [delivery for delivery in owed if delivery.tag != self._held]
        if not owed:
            return 0
        first, last = owed[0].tag, owed[-1].tag
        # One ack for all is right only for an unbroken run of tags from the first one open.
        if not self._link.is_virtual and first == self._acknowledged + 1 and last - first + 1 == len(owed):
            self._channel.basic_ack(last, multiple=True)
            self._acknowledged = last
        else:
            for delivery in owed:
                self._channel.basic_ack(delivery.tag)
            if not self._link.is_virtual:
                self._ahead.update(delivery.tag for delivery in owed)
        while self._acknowledged + 1 in self._ahead:
            self._acknowledged += 1
            self._ahead.remove(self._acknowledged)
        self.unacknowledged -= len(owed)
        return len(owed)

    def close(self) -> None:
        """Close the channel: what is unacknowledged goes back to the queue."""
        self._beat()
        self._channel.close()
