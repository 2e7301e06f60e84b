"""One connection of a consumer: its queues, each over a channel of its own, and what is asked beside them."""

import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from amqp.exceptions import ChannelError

from panko_ingest.amqp import pauses
from panko_ingest.amqp.bindings import Bindings, CostlyExchanges
from panko_ingest.amqp.consumer_need import ConsumerNeed
from panko_ingest.amqp.costly_queues import CostlyQueues
from panko_ingest.amqp.delivery_handler import DeliveryHandler
from panko_ingest.amqp.link import Channel, Link
from panko_ingest.amqp.queue_channel import QueueChannel
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.backoff import Backoff
from panko_ingest.delivery import Delivery

LOG = logging.getLogger(__name__)

_MAX_WAIT = 0.5
_DRAIN_WAIT = 0.05
# Seconds after which a step leaves the rest of what a broker is to be asked to the next one.
_ASKING = 1.0
# Seconds for which deliveries are passed on in a step, as neither heartbeats nor acks go out meanwhile.
_PASSING_ON = 1.0
# Seconds of converting after which, and in which, the loss of a connection is put down to it.
_LONG = 5.0
# Seconds between two renewals, as a broker counts channels that were just closed for a while.
_BETWEEN_RENEWALS = 1.0
_NONE_IS_THERE = "none of them is: nothing was published yet, or vhost, topics or priorities are others"


@dataclass(slots=True)
class SessionTools:
    """What the sessions of a consumer share: each takes from here what it needs of the time before it.

    :param backoffs: by queue, when to try it again.
    :param absences: by queue, when to look for it again.
    :param costly_queues: those over which a connection was lost; so are ``costly_exchanges``.
    :param consumer_needs: by queue, whether it must have a consumer while the store is away.
    :param refused_queues: what was told of queues that are not read though they are there.
    :param refused_exchanges: what was told of exchanges that may not be bound.
    :param unbound: what was told of the pool's queue that nothing gets into.
    :param tell_absence: called with a queue, and whether it is absent.
    :param numbers: of channels.
    :param told: what the log was told about the topology.
    :param looks_after: whether this consumer looks after bindings that are there, and after queues while the
        store is away.
    :param siblings: returns how many consumers of this daemon a queue has, None while some of them do not
        consume yet; given to one worker, which warns of those that are not.
    """

    topology: Topology
    handler: DeliveryHandler
    backoffs: Mapping[str, Backoff]
    absences: Mapping[str, Backoff]
    costly_queues: CostlyQueues
    consumer_needs: Mapping[str, ConsumerNeed]
    costly_exchanges: CostlyExchanges
    refused_queues: Refusals
    refused_exchanges: Refusals
    unbound: Refusals
    tell_absence: Callable[[str, bool], None]
    numbers: Iterator[int]
    told: set[str]
    beat: Callable[[], None]
    clock: Callable[[], float]
    looks_after: bool
    siblings: Callable[[], int | None] | None


class Session:
    """Reads all queues of a bus over one connection that is open.

    :param where: what the log calls the connection.
    """

    def __init__(self, tools: SessionTools, link: Link, where: str) -> None:
        self.acknowledged = False
        """Whether anything was, so that the connection was worth it."""
        self._tools = tools
        self._handler = tools.handler
        self._link = link
        self._where = where
        self._stopping = False
        self._arrived: deque[Delivery] = deque()
        self._slow = ("", 0.0, 0.0)
        """The queue of the last message that took long, for how many seconds, and when it was converted."""
        self._holding = not self._handler.ready()
        """Whether nothing is read before the store answers; queues have consumers only where they must."""
        self._renews_at = 0.0
        self.useless_since: float | None = tools.clock()
        """Since when the broker has had nothing for us to read, though the store takes events."""
        self._received = False
        self._asks_on_at = tools.clock() + pauses.READ_FIRST
        self._missing: list[str] = []
        self._keeper = TopologyKeeper(tools.topology, link, tools.beat, tools.told)
        self._bindings = Bindings(
            tools.topology,
            self._keeper,
            tools.costly_exchanges,
            again=tools.looks_after,
            tell=tools.refused_exchanges.note,
            tell_unbound=tools.unbound.note,
            clock=tools.clock,
            where=where,
        )
        self._queues = deque(
            QueueChannel(
                name,
                link,
                self._keeper,
                tools.backoffs[name],
                tools.absences[name],
                tools.costly_queues,
                tools.consumer_needs[name],
                keeps=tools.looks_after and not link.is_virtual,
                numbers=tools.numbers,
                receive=self._receive,
                beat=tools.beat,
                tell=tools.refused_queues.note,
                tell_absence=tools.tell_absence,
                clock=tools.clock,
                where=where,
                timeout=tools.topology.consumer_timeout,
            )
            for name in tools.topology.names
        )
        if self._holding:  # and so gets a message from each before it is told to be open
            for name in tools.topology.names:
                self._handler.opened(name)

    @property
    def only_holds(self) -> bool:
        """Whether nothing is in hand but what consumers hold that do nothing but be there."""
        return self._holding and not any(queue.clings for queue in self._queues)

    @property
    def consuming(self) -> bool:
        """Whether the broker may send messages now, of queues that are there."""
        if self._holding:
            return False
        return any(queue.prefetch for queue in self._queues) or all(queue.absent for queue in self._queues)

    def step(self) -> None:
        """Look for what is missing, wait for what comes, pass it on, and acknowledge what is committed.

        :raises LINK_ERRORS: the connection is lost.
        """
        self._holding = self._holding and not self._handler.ready()
        self._open_queues()
        may_get_any = self._received or not self._bindings.none_is_known
        if self._holding or (may_get_any and any(queue.is_open for queue in self._queues)):
            self.useless_since = None
        elif self.useless_since is None:
            self.useless_since = self._tools.clock()
        if not self._link.is_virtual:
            self._look_after()
        if self._arrived:
            busy = True
            self._link.keep_alive()  # what is more waits at the broker
        else:
            busy = self._link.serve(0 if self._handler.waiting() else _MAX_WAIT)
        self._pass_on()
        self._settle(eager=not busy)

    def give_back(self) -> bool:
        """Give back what is in hand and read nothing before the store answers, if the connection is to stay.

        :returns: whether it is: a queue may be deleted, with all that it holds, when its last consumer goes,
            and an exchange may come that the pool's is to be bound to.
        :raises LINK_ERRORS: the connection is lost.
        """
        binds = self._tools.looks_after and self._tools.topology.bound_to and not self._link.is_virtual
        if not binds and not any(queue.clings or (queue.is_open and queue.keeps) for queue in self._queues):
            return False
        self._holding = True
        self._arrived.clear()
        self._handler.reset()
        for queue in self._queues:
            self._handler.opened(queue.queue)
        for queue in self._queues:
            queue.give_back()
        return True

    def drain(self) -> bool:
        """Commit and acknowledge what is in hand, and read nothing more; return whether this is done.

        :raises LINK_ERRORS: the connection is lost.
        """
        if not self._stopping:
            self._stopping = True
            self._arrived.clear()
            for queue in self._queues:
                queue.stop()
            self._follow()
        done = self._handler.flush()
        if not done:
            self._link.serve(_DRAIN_WAIT)
        self._settle(eager=True)
        return done

    def why_lost(self) -> str:
        """Return what the loss of the connection is put down to beside its error; blank for nothing."""
        queue, seconds, at = self._slow
        if seconds < _LONG or self._tools.clock() > at + _LONG:
            return ""
        return f"; it was lost while a message of queue {queue!r} was converted for {seconds:.0f} s"

    def _receive(self, delivery: Delivery) -> None:
        # What arrives while stopping is left unacknowledged: the broker gives it to another.
        if not self._stopping:
            # Only laid by, as it may come before an answer, which has its time.
            self._arrived.append(delivery)
            self._received = True

    def _pass_on(self) -> None:
        """Pass on what has arrived, but for what would take too long: some messages take seconds each."""
        arrived, accept, clock = self._arrived, self._handler.accept, self._tools.clock
        # What came over a channel before can't be acknowledged any more, and comes again.
        open_ones = {queue.number for queue in self._queues}
        began = clock()
        while arrived:
            delivery = arrived.popleft()
            if delivery.channel in open_ones:
                accept(delivery)
                if clock() > began + _PASSING_ON:
                    self._slow = delivery.queue, clock() - began, clock()
                    return

    def _rotated(self) -> Iterator[QueueChannel]:
        """Yield the queues for as long as they may take; the next step begins with the one after them."""
        late = self._tools.clock() + _ASKING
        for _ in range(len(self._queues)):
            if self._tools.clock() > late:
                return
            self._queues.rotate(-1)
            yield self._queues[-1]

    def _open_queues(self) -> None:
        reads = not self._holding
        opened = [queue for queue in self._rotated() if not queue.may_hang and queue.open(reads=reads)]
        for queue in () if opened else self._those_that_may_hang():
            if queue.open(reads=reads):
                opened = [queue]  # the others are read on before the next one
                break
        for queue in opened:
            self._handler.opened(queue.queue)
            if queue.queue == self._tools.topology.pool:
                self._bindings.start_over()
        if opened:
            if all(queue in opened for queue in self._queues if queue.is_open):
                self._find_room()
            self._follow()
        self._tell_missing()

    def _tell_missing(self) -> None:
        missing = sorted(queue.queue for queue in self._queues if queue.absent)
        if missing == self._missing:
            return
        self._missing = missing
        none_is_there = len(missing) == len(self._queues)
        warns = none_is_there and self._tools.looks_after and _NONE_IS_THERE not in self._tools.told
        if none_is_there:
            self._tools.told.add(_NONE_IS_THERE)
        elif any(queue.is_open for queue in self._queues):
            self._tools.told.discard(_NONE_IS_THERE)
        LOG.log(
            logging.WARNING if warns else logging.INFO,
            "%s: waiting for queues that are not there: %s%s",
            self._where,
            ", ".join(missing) or "none",
            f"; {_NONE_IS_THERE}" if none_is_there else "",
        )

    def _those_that_may_hang(self) -> list[QueueChannel]:
        """Return what to ask about now; in any order, for the first one that hangs hides those behind it."""
        if self._tools.clock() < self._asks_on_at and any(queue.is_open for queue in self._queues):
            return []
        found = [queue for queue in self._queues if queue.may_hang]
        return sorted(random.sample(found, len(found)), key=lambda queue: queue.is_costly)

    def _find_room(self) -> None:
        """Open, for once, as many channels as there may ever be: one more for a renewal, one to ask over.

        With a connection that is closed over them now go no queues that delete themselves.
        """
        if not any(queue.clings for queue in self._queues):
            return
        spare: list[Channel] = []
        with contextlib.suppress(ChannelError):
            while len(spare) < sum(not queue.is_open for queue in self._queues) + 2:
                self._tools.beat()
                spare.append(self._link.channel())
        for channel in spare:
            self._tools.beat()
            channel.close()

    def _look_after(self) -> None:
        if not any(queue.absent for queue in self._queues):
            self._bindings.step()
        self._warn_of_other_consumers()
        if self._tools.clock() < self._renews_at:
            return
        renewed = next((queue for queue in self._rotated() if queue.renew()), None)
        if renewed is not None:
            self._renews_at = self._tools.clock() + _BETWEEN_RENEWALS
            self._handler.following(renewed.queue, 0)
            self._follow()

    def _settle(self, *, eager: bool) -> None:
        for batch in self._handler.poll(eager=eager):
            for queue in self._queues:
                queue.owe(batch.deliveries)
        self._follow()

    def _follow(self) -> None:
        """Let each queue consume with as large a prefetch as the handler allows now."""
        late = self._tools.clock() + _ASKING
        hold = not self._stopping and (self._handler.probing() or not self._handler.ready())
        postponed = []
        for queue in self._queues:
            before = queue.prefetch
            reads = queue.is_open and not self._stopping and not self._holding
            prefetch = self._handler.prefetch(queue.queue) if reads else 0
            if prefetch != before and self._tools.clock() > late:
                prefetch = before
                postponed.append(queue)
            if queue.follow(prefetch, hold=hold):
                self.acknowledged = True
            if queue.prefetch != before:
                self._handler.following(queue.queue, queue.prefetch)
        if postponed:  # They are the first ones of the next step; a sort leaves all else in order.
            self._queues = deque(sorted(self._queues, key=lambda queue: queue not in postponed))

    def _warn_of_other_consumers(self) -> None:
        if self._tools.siblings is None or self._tools.topology.pool:
            return
        siblings = self._tools.siblings()
        if siblings is None:
            return
        self._tools.siblings = None
        for queue in [queue.queue for queue in self._queues if queue.is_open]:
            others = self._keeper.count_consumers(queue) - siblings
            if others > 0:
                LOG.warning(
                    "%s: queue %r has %d consumers that are not of this daemon: each message goes to "
                    "only one of them and us. If Ceilometer's agent is among them, set [notification] "
                    "pool to get a copy of everything",
                    self._where,
                    queue,
                    others,
                )
