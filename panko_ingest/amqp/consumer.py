"""Reading from one bus for as long as the daemon lives, whatever happens to the connection."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from amqp.exceptions import AMQPError, NotFound
from kombu.exceptions import KombuError

from panko_ingest.amqp.link import AmqpLink, Link, VirtualLink, Waker
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.backoff import pauses
from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery

LOG = logging.getLogger(__name__)

# What ends a connection and nothing more. Anything else is a fault of ours and ends the worker.
LINK_ERRORS = (AMQPError, KombuError, OSError)

_MAX_WAIT = 0.5
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_FIRST_LOOK = 1.0
_LATER_LOOKS = 10.0
_READY_POLL = 0.2


class Lane(Protocol):
    """Where deliveries go, and where the batches come from that may be acknowledged."""

    def ready(self) -> bool:
        """Whether the store can take events now."""

    def reset(self, generation: int) -> None:
        """Forget all that is not committed: the broker delivers it again. Then a new channel opens."""

    def window(self) -> int:
        """Return how many unacknowledged messages a queue may send now; 0: read nothing."""

    def accept(self, delivery: Delivery) -> None:
        """Take one delivery."""

    def turn(self, *, eager: bool) -> Sequence[Batch]:
        """Move things on; return the batches that were committed since the last turn.

        :param eager: nothing more is at hand: what there is may go.
        """

    def waiting(self) -> bool:
        """Whether an eager turn would move something on."""

    def must_release(self) -> bool:
        """Whether to give the held messages back before the broker takes them away."""

    def probing(self) -> bool:
        """Whether what is read now is but a try: the bus does not count as consumed."""

    def flushed(self) -> bool:
        """Hand over what is left, for the end is near; return whether nothing is outstanding."""


class _Released(Exception):
    """The channel is closed on purpose because the store is away for too long."""


class AmqpConsumer:
    """Consumes one bus: connect, find the queues, consume, acknowledge; after any error, all anew.

    :param lane: takes the deliveries; called from the thread of :meth:`run` only.
    :param client_properties: what the broker's operator sees of this connection.
    :param beat: called every second or so while the thread makes progress, with whether messages of
        every queue that exists would come now.
    :param on_open: called with True when a connection is there, and with False when it is no more.
    :param on_lost: called whenever a connection was lost.
    :param siblings: returns how many consumers of this daemon a queue has; given to one worker,
        which warns of those that are not.
    """

    def __init__(
        self,
        bus: Bus,
        topology: Topology,
        lane: Lane,
        *,
        client_properties: Mapping[str, str],
        beat: Callable[[bool], None] = lambda _consuming: None,
        on_open: Callable[[bool], None] = lambda _open: None,
        on_lost: Callable[[], None] = lambda: None,
        siblings: Callable[[], int] | None = None,
    ) -> None:
        self.bus = bus
        self._consuming = False
        self._topology = topology
        self._keeper = TopologyKeeper(topology, self._beat)
        self._lane = lane
        self._client_properties = client_properties
        self._tell = beat
        self._on_open = on_open
        self._on_lost = on_lost
        self._siblings = siblings
        self._stopping = threading.Event()
        self._waker = Waker()
        self._generation = 0
        self._brokers: list[Broker] = []

    def stop(self) -> None:
        """Make :meth:`run` finish what it holds and return. Callable from any thread."""
        self._stopping.set()
        self._waker.wake()

    def wake(self) -> None:
        """Let the thread look at its lane now. Callable from any thread."""
        self._waker.wake()

    def run(self) -> None:
        """Consume until :meth:`stop`.

        :raises ConfigError: a queue breaks ``require_durable``.
        """
        waits = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._stopping.is_set():
            self._beat()
            if not self._lane.ready():
                self._stopping.wait(_READY_POLL)
                continue
            session = _Session(self)
            loss: Exception | None = None
            released = False
            try:
                session.run()
            except _Released:
                released = True
            except LINK_ERRORS as error:
                loss = error
            finally:
                self._consuming = False
                self._generation += 1
                self._lane.reset(self._generation)
            # Outside of the clauses, where oslo.log would add the error's text once more.
            if released:
                LOG.warning("%s: gave back what is not stored, until the store answers", self.bus.name)
            if loss is not None:
                LOG.warning("%s: %s: %s", session.where, type(loss).__name__, loss)
                self._on_lost()
            if session.consumed:
                waits = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
            self._pause(next(waits))

    def _beat(self) -> None:
        self._tell(self._consuming and not self._lane.probing())

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stopping.wait(min(left, 1.0)):
            self._beat()

    def _connect(self) -> tuple[str, Callable[[], Link]]:
        """Return where the next connection goes, and what opens it."""
        if self.bus.virtual_url is not None:
            url = self.bus.virtual_url
            return self.bus.name, lambda: VirtualLink(url, self._waker)
        self._brokers = self._brokers or self.bus.shuffled()
        broker = self._brokers.pop()
        return str(broker), lambda: AmqpLink(broker, self._client_properties, self._waker)


class _Session:
    """One connection of a consumer, from opening to closing it."""

    def __init__(self, consumer: AmqpConsumer) -> None:
        self._consumer = consumer
        self._lane = consumer._lane
        self._keeper = consumer._keeper
        self._generation = consumer._generation
        self._stopping = consumer._stopping
        self._tags: dict[str, str] = {}
        self._tags_given = 0
        self._window = 0
        self._acknowledged = 0  # the tag up to which none is open
        self._present: list[str] = []
        self._missing: list[str] = []
        self._look_at = 0.0
        self._looks = pauses(_FIRST_LOOK, _LATER_LOOKS)
        self.where, self._open = consumer._connect()
        self.consumed = False

    def run(self) -> None:
        """Hold the connection until the consumer is to stop.

        :raises _Released: the lane asked to give everything back.
        :raises LINK_ERRORS: the connection is lost.
        """
        link = self._link = self._open()
        self._consumer._on_open(True)
        try:
            self._keeper.attach(link)
            self._channel = link.channel()
            while not self._stopping.is_set():
                self._consumer._beat()
                self._look_for_queues()
                self._follow_window(self._lane.window())
                busy = link.serve(0 if self._lane.waiting() else _MAX_WAIT)
                self._settle(self._lane.turn(eager=not busy))
                if self._lane.must_release():
                    raise _Released
            self._drain()
        finally:
            self._consumer._on_open(False)
            link.close()

    def _drain(self) -> None:
        self._follow_window(0)
        while not self._lane.flushed():
            self._consumer._beat()
            self._link.serve(0.05)
            self._settle(self._lane.turn(eager=True))
        self._settle(self._lane.turn(eager=True))

    def _receive(self, delivery: Delivery) -> None:
        # What arrives while stopping is left unacknowledged: the broker gives it to another.
        if not self._stopping.is_set():
            self._lane.accept(delivery)

    def _look_for_queues(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + next(self._looks)
        names = self._consumer._topology.names
        absent = [name for name in names if name not in self._present]
        if absent:
            found = self._keeper.find(absent)
            self._warn_of_strangers()
            self._present += found
            missing = sorted(set(absent) - set(found))
            if missing != self._missing:
                self._missing = missing
                LOG.info(
                    "%s: waiting for queues that are not there: %s", self.where, ", ".join(missing) or "none"
                )
            if self._window:
                for name in found:
                    self._consume(name)
        if not self._keeper.complete:
            self._keeper.bind_missing()

    def _warn_of_strangers(self) -> None:
        siblings = self._consumer._siblings
        if siblings is None or self._consumer._topology.pool:
            return
        for queue, consumers in self._keeper.consumers.items():
            strangers = consumers - siblings()
            if strangers > 0:
                LOG.warning(
                    "%s: queue %r has %d consumers that are not of this daemon: each message goes to "
                    "only one of them and us. If Ceilometer's agent is among them, set [notification] "
                    "pool to get a copy of everything",
                    self.where,
                    queue,
                    strangers,
                )
        self._consumer._siblings = None

    def _follow_window(self, window: int) -> None:
        """Consume with as large a prefetch as the lane allows now, or not at all."""
        if window == self._window:
            return
        for tag in self._tags.values():
            self._channel.basic_cancel(tag)
        self._tags.clear()
        if window:
            self._channel.basic_qos(0, window, False)
            for queue in self._present:
                self._consume(queue)
        self._window = window
        self._consumer._consuming = window > 0

    def _consume(self, queue: str) -> None:
        # Never the same tag again: RabbitMQ 3.10's channel crashes when a quorum queue's consumer is
        # cancelled and comes back under its tag while deliveries are under way.
        self._tags_given += 1
        tag = f"panko-ingest-{self._generation}-{self._tags_given}"
        try:
            self._link.consume(self._channel, queue, tag, self._generation, self._receive)
        except NotFound:
            # Only `declare = never` gets here without having asked: leave it out next time.
            self._keeper.mark_absent(queue)
            raise
        self._tags[queue] = tag
        self.consumed = True

    def _settle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.generation != self._generation:
                continue  # its channel is gone: the broker delivers again, and finds duplicates
            first, last = batch.deliveries[0].tag, batch.deliveries[-1].tag
            # One ack for all is right only for an unbroken run of tags from the first one open.
            if (
                not self._link.is_virtual
                and first == self._acknowledged + 1
                and last - first + 1 == len(batch.deliveries)
            ):
                self._channel.basic_ack(last, multiple=True)
                self._acknowledged = last
            else:
                for delivery in batch.deliveries:
                    self._channel.basic_ack(delivery.tag)
