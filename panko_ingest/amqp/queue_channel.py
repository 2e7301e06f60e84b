"""One queue of a session: whether it is there, the channel that it is read over, and when to try again."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from amqp.exceptions import AMQPError, ChannelError, ConsumerCancelled, RecoverableConnectionError

from panko_ingest.amqp.consumer_need import ConsumerNeed
from panko_ingest.amqp.costly_queues import CostlyQueues
from panko_ingest.amqp.link import Link
from panko_ingest.amqp.open_channel import NoTimeoutError, OpenChannel
from panko_ingest.amqp.topology import TopologyKeeper
from panko_ingest.backoff import Backoff
from panko_ingest.delivery import Delivery

LOG = logging.getLogger(__name__)

# A quorum queue of RabbitMQ 3.10 that is deleted and at once made again tells its consumers nothing, counts
# them as consumers of the new queue, and its messages never come.
_RENEW_AFTER = 60.0
# Seconds in which the same refusal is no news to the log, though the queue was read in between.
_SAY_AGAIN = 60.0

P = ParamSpec("P")
T = TypeVar("T")


def _costly(
    ask: "Callable[Concatenate[QueueChannel, P], T]",
) -> "Callable[Concatenate[QueueChannel, P], T]":
    """Let a queue be asked about later each time if the broker's answer, or none, costs the connection."""

    @functools.wraps(ask)
    def asking(self: "QueueChannel", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return ask(self, *args, **kwargs)
        except RecoverableConnectionError:  # the broker goes, or its operator wants us to
            raise
        except (AMQPError, TimeoutError) as error:
            # Its process may hang: let the others be read for a while before it is asked about again.
            self._give_up(self._costly.lost_over(self.queue), error, "the connection was lost over it: ")
            raise

    return asking


class QueueChannel:
    """Reads one queue over a channel of its own, so that a refusal of it costs no other queue.

    :param backoff: when to try again a queue that is refused; outlives the session.
    :param absence: when to look again for a queue that is absent; outlives it, too.
    :param costly: the queues over which connections were lost; outlive it, too.
    :param consumer_need: whether the queue must have a consumer while the store is away; outlives it, too.
    :param keeps: have a consumer there while the store is away, where it must have one.
    :param numbers: gives each channel its number.
    :param receive: takes the deliveries.
    :param beat: called before each question, as a slow broker makes many of them take long.
    :param tell: called with the queue, and why it is not read though it is there, None when it is read or not
        there; returns whether that is news.
    :param tell_absence: called with the queue, and whether it is absent, whenever that is known.
    :param where: what the log calls the connection.
    :param timeout: seconds that a delivery may be unacknowledged, which the broker is asked for.
    """

    def __init__(
        self,
        queue: str,
        link: Link,
        keeper: TopologyKeeper,
        backoff: Backoff,
        absence: Backoff,
        costly: CostlyQueues,
        consumer_need: ConsumerNeed,
        *,
        keeps: bool,
        numbers: Iterator[int],
        receive: Callable[[Delivery], None],
        beat: Callable[[], None],
        tell: Callable[[str, str | None], bool],
        tell_absence: Callable[[str, bool], None],
        clock: Callable[[], float],
        where: str,
        timeout: float,
    ) -> None:
        self.queue = queue
        self.absent = absence.failed_last
        """Whether it was not there when it was looked for last, also in a session before."""
        self._link = link
        self._keeper = keeper
        self._backoff = backoff
        self._absence = absence
        self._costly = costly
        self._consumer_need = consumer_need
        self._keeps = keeps
        self._numbers = numbers
        self._receive = receive
        self._beat = beat
        self._tell = tell
        self._tell_absence = tell_absence
        self._clock = clock
        self._where = where
        self._wanted_timeout = timeout
        self._timeout: float | None = timeout
        self._channel: OpenChannel | None = None
        self._heard_at = 0.0
        self._said = ("", 0.0)
        """What the log was told last of why the queue is not read, and when."""

    @property
    def is_open(self) -> bool:
        """Whether there is a channel to consume and to acknowledge over."""
        return self._channel is not None

    @property
    def number(self) -> int | None:
        """The number of the channel, which its deliveries carry."""
        return None if self._channel is None else self._channel.number

    @property
    def is_costly(self) -> bool:
        """Whether a connection was lost over it, and it is not read again yet."""
        return self.queue in self._costly

    @property
    def may_hang(self) -> bool:
        """Whether it may cost a connection to ask about it."""
        return self._costly.may_hang(self.queue)

    @property
    def clings(self) -> bool:
        """Whether the queue may be one that must not be without a consumer, not even for a moment."""
        return self._channel is not None and self._channel.clings

    @property
    def keeps(self) -> bool:
        """Whether we are to see to it that the queue has a consumer while the store is away."""
        return self._keeps and self._consumer_need.is_there

    @property
    def prefetch(self) -> int:
        """How many messages the broker may leave unacknowledged; 0 while nothing is consumed."""
        return self._channel.prefetch if self._channel is not None else 0

    @_costly
    def open(self, *, reads: bool = True) -> bool:
        """Find the queue and open a channel for it, if it is time to; return whether this was done.

        :param reads: whether it is to be read; otherwise it has a consumer at most.
        :raises LINK_ERRORS: the connection is lost.
        """
        if self._channel is not None or self._backoff.due_in or self._absence.due_in:
            return False
        if self._costly.due_in(self.queue) or not (reads or self.keeps):
            return False
        opened = self._find_and_open(reads=reads)
        self._costly.answered(self.queue)
        return opened

    def _find_and_open(self, *, reads: bool) -> bool:
        try:
            self.absent = not self._keeper.find(self.queue)
            self._tell_absence(self.queue, self.absent)
            if self.absent:
                self._tell(self.queue, None)
                self._consumer_need.forget()
                self._costly.settled(self.queue)  # what comes by its name is another one
                self._absence.failed()
                return False
            self._absence.succeeded()
            self._channel = self._open() if reads else self._hold()
        except ChannelError as refusal:
            if self.absent:
                self.absent = False
                self._tell_absence(self.queue, False)
            self._refuse(refusal)
            return False
        self._heard_at = self._clock()
        return True

    def _open(self, *, spare: bool = False) -> OpenChannel:
        self._beat()
        channel = OpenChannel(
            self.queue,
            self._link,
            self._link.channel(spare=spare),
            next(self._numbers),
            receive=self._receive,
            timeout=self._timeout,
            clings=self._clings(),
            beat=self._beat,
            counts=self._counts,
        )
        self._consumer_need.expires = self._keeper.expires(self.queue)
        return channel

    def _clings(self) -> bool:
        """Return whether the queue may be one that must not be without a consumer, not even for a moment."""
        if self._consumer_need.lost_its_consumer:
            return False
        return self._keeper.deletes_itself(self.queue) is not False

    def _counts(self, held: Delivery) -> bool:
        """Return whether the count of a delivery has grown: one that never does is its publisher's."""
        grown = self._consumer_need.note(held)
        if grown:
            self._keeper.stays(self.queue)
        return grown

    def _hold(self, *, spare: bool = False) -> OpenChannel:
        """Open a channel with a consumer that reads nothing yet."""
        channel = self._open(spare=spare)
        channel.holds = self.keeps
        try:
            channel.hold()
        except NoTimeoutError:
            self._timeout = None
            return self._hold(spare=spare)
        return channel

    def owe(self, deliveries: Sequence[Delivery]) -> None:
        """Take back deliveries that may be acknowledged; those of other channels are left out."""
        if self._channel is not None:
            self._channel.owe(deliveries)

    def stop(self) -> None:
        """Be ready to consume nothing for good."""
        if self._channel is not None:
            self._channel.clings = self._channel.holds = False

    @_costly
    def follow(self, prefetch: int, *, hold: bool = False) -> int:
        """Consume with as large a prefetch as is allowed now, and acknowledge what is owed.

        :param hold: where nothing is allowed, have a consumer all the same if the queue must have one.
        :returns: how many deliveries were acknowledged.
        :raises LINK_ERRORS: the connection is lost.
        """
        channel = self._channel
        if channel is None:
            return 0
        was_reading = channel.prefetch
        try:
            if channel.refusal is not None:
                raise channel.refusal
            channel.holds = hold and self.keeps
            acknowledged = channel.follow(prefetch)
        except NoTimeoutError:
            self._channel, self._timeout = None, None
            return 0
        except AMQPError as error:
            if error is not channel.refusal and not isinstance(error, ChannelError):
                raise
            self._refuse(error)
            return 0
        if channel.prefetch and not was_reading:
            self._tell(self.queue, None)
            self._costly.settled(self.queue)
        if acknowledged:
            self._heard_at = self._clock()  # nothing is given up while something is unacknowledged
            self._backoff.succeeded()
        return acknowledged

    @_costly
    def renew(self) -> bool:
        """Give up a channel over which nothing came for long, to be opened anew; return whether it was.

        :raises LINK_ERRORS: the connection is lost.
        """
        channel = self._channel
        if channel is None or not channel.prefetch or channel.unacknowledged:
            return False
        if self._clock() < self._heard_at + _RENEW_AFTER:
            return False
        self._heard_at = self._clock()
        deletes_itself = self._keeper.deletes_itself(self.queue)
        if channel.refusal is not None or deletes_itself:
            return False  # what deletes itself is no quorum queue
        if deletes_itself is None:
            return self._succeed(channel)
        try:
            channel.leave()
        except ChannelError:
            return True  # the broker closes it just then, as is told when it is followed next
        if not channel.unacknowledged:  # or something came after all, and is acknowledged over this channel
            self._channel = None
            channel.close()
        return True

    def _succeed(self, before: OpenChannel) -> bool:
        """Have another channel with a consumer before this one goes; return whether it is gone."""
        try:
            successor = self._hold(spare=True)
        except ChannelError:
            return False  # there is no room for it, or no queue, of which this one is told as well
        if before.unacknowledged:  # something came after all
            successor.close()
            return False
        self._channel = successor
        before.close()
        return True

    @_costly
    def give_back(self) -> None:
        """Give back what is in hand; a queue that must not be without a consumer has another one before that.

        :raises LINK_ERRORS: the connection is lost.
        """
        before, self._channel = self._channel, None
        if before is None:
            return
        try:
            if before.clings and before.refusal is None:
                self._channel = self._hold()
        except ChannelError as refusal:
            self._refuse(refusal)
        before.close()

    def _refuse(self, refusal: AMQPError) -> None:
        """Give up the channel, and what is unacknowledged with it: the broker delivers it again."""
        channel, self._channel = self._channel, None
        self._keeper.forget(self.queue)
        self._timeout = self._wanted_timeout
        if isinstance(refusal, ConsumerCancelled):  # what is there next may be another queue of that name
            self._consumer_need.forget()
        self._give_up(self._backoff, refusal)
        if channel is not None:
            channel.close()  # after a cancel it is still open; closing what is closed is nothing

    def _give_up(self, backoff: Backoff, error: Exception, why: str = "") -> None:
        """Tell why the queue is not read, the log only where that is news, and when it is tried again."""
        pause, text, now = backoff.failed(), f"{why}{error}", self._clock()
        said, at = self._said
        if self._tell(self.queue, text) and (text != said or now >= at + _SAY_AGAIN):
            self._said = text, now
            LOG.warning(
                "%s: queue %r is not read: %s%s: %s; trying again in %.0f s, later each time",
                self._where,
                self.queue,
                why,
                type(error).__name__,
                error,
                pause,
            )
