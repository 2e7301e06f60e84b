"""Reading from one bus for as long as the daemon lives, whatever happens to the connection."""

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from amqp.exceptions import NotAllowed

from panko_ingest import threads
from panko_ingest.amqp import pauses
from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.bindings import CostlyExchanges
from panko_ingest.amqp.channel_limit import ChannelLimit
from panko_ingest.amqp.consumer_need import ConsumerNeed
from panko_ingest.amqp.costly_queues import CostlyQueues
from panko_ingest.amqp.delivery_handler import DeliveryHandler
from panko_ingest.amqp.link import LINK_ERRORS, Link, Waker
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.session import Session, SessionTools
from panko_ingest.amqp.topology import Topology
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.amqp.virtual_link import VirtualLink
from panko_ingest.backoff import Backoff

LOG = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
# A broker that does not let us in costs nothing: let it find us as soon as it is back.
_LONGEST_PAUSE_TO_CONNECT = 3.0
# Each connection that acknowledges nothing costs all that it took one return.
_LONGEST_PAUSE = 30.0
_READY_POLL = 0.2
_BEAT_INTERVAL = 1.0
_SAY_AGAIN = 60.0
# A store that answers sooner is not away, but just asked for the first time.
_HOLD_AFTER = 3.0
# A broker that lets us in may be one that was reset, or that a load balancer led us to, without the queues,
# or without the exchanges of the pool.
_ASTRAY_AFTER = 60.0
_LATER_ASTRAY = 960.0
_SEVERAL = 2
# RabbitMQ's words where it ends a connection over one consumer more than a channel may have
# (consumer_max_per_channel).
_TOO_MANY = "of consumers per channel"


class AmqpConsumer:
    """Consumes one bus: connect, read its queues, acknowledge; after an error of the connection, all anew.

    :param handler: takes the deliveries; called from the thread of :meth:`run` only.
    :param client_properties: what the broker's operator sees of this connection.
    :param beat: called every second or so while the thread makes progress, with whether messages would
        come now.
    :param on_open: called with True when a connection is there, and with False when it is no more.
    :param on_lost: called whenever a connection that was open is lost.
    :param on_refusal: called with a queue or an exchange, and why the broker refuses it; None when it does
        no longer.
    :param on_absence: called with a queue, and whether it is absent, whenever that is known.
    :param on_unbound: called with whether nothing gets into the pool's queue, as there is no exchange for it.
    :param looks_after: bind what is bound already again and again, and have a consumer on each queue while
        the store is away; one worker of a daemon is enough for it.
    :param siblings: returns how many consumers of this daemon a queue has, None while some of them do not
        consume yet; given to one worker, which warns of those that are not.
    :param connect: opens a connection; one to a broker of the bus by default.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        bus: Bus,
        topology: Topology,
        handler: DeliveryHandler,
        *,
        client_properties: Mapping[str, str] | None = None,
        beat: Callable[[bool], None] = lambda _consuming: None,
        on_open: Callable[[bool], None] = lambda _open: None,
        on_lost: Callable[[], None] = lambda: None,
        on_refusal: Callable[[str, str | None], None] = lambda _name, _reason: None,
        on_absence: Callable[[str, bool], None] = lambda _name, _absent: None,
        on_unbound: Callable[[bool], None] = lambda _unbound: None,
        looks_after: bool = False,
        siblings: Callable[[], int | None] | None = None,
        connect: Callable[[], Link] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bus = bus
        self._handler = handler
        self._client_properties = client_properties or {}
        self._tell = beat
        self._on_open = on_open
        self._on_lost = on_lost
        self._open = connect
        self._clock = clock
        self._stopping = False
        self._waker = Waker()
        self._brokers: list[Broker] = []
        self._where = bus.name
        self._session: Session | None = None
        self._said: dict[str, float] = {}
        self._away_since: float | None = None
        self._channel_limit = ChannelLimit(clock)
        self._connecting = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE_TO_CONNECT, clock)
        self._sessions = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, clock)
        self._astray_after = _ASTRAY_AFTER
        self._tools = SessionTools(
            topology,
            handler,
            backoffs={name: pauses.looking(clock) for name in topology.names},
            absences={name: pauses.absent_queue(clock) for name in topology.names},
            costly_queues=CostlyQueues(topology.names, clock),
            consumer_needs={name: ConsumerNeed() for name in topology.names},
            costly_exchanges=CostlyExchanges(clock),
            refused_queues=Refusals(on_refusal),
            refused_exchanges=Refusals(on_refusal),
            unbound=Refusals(lambda _pool, reason: on_unbound(reason is not None)),
            tell_absence=on_absence,
            numbers=itertools.count(1),
            told=set(),
            beat=self._beat,
            clock=clock,
            looks_after=looks_after,
            siblings=siblings,
        )
        handler.call_when_settled(self._waker.wake)

    def stop(self) -> None:
        """Make :meth:`run` finish what it holds and return. Callable from any thread."""
        self._stopping = True
        self._waker.wake()

    def run(self) -> None:
        """Consume until :meth:`stop`."""
        for pause in self.steps():
            if pause:
                self._waker.wait(pause)

    def steps(self) -> Iterator[float]:
        """Consume until :meth:`stop`, step by step; yield the seconds to wait before the next one."""
        while not self._stopping:
            self._beat()
            pause = max(self._connecting.due_in, self._sessions.due_in)
            if pause:
                yield min(pause, _BEAT_INTERVAL)
            elif self._handler.ready():
                self._away_since = None
                yield from self._attend()
            elif self._must_hold():
                yield from self._attend()
            else:
                yield _READY_POLL

    def _attend(self) -> Iterator[float]:
        """Hold one connection until it is lost, given up, or the consumer is to stop."""
        session: Session | None = None
        loss: Exception | None = None
        link: Link | None = None
        astray = False
        try:
            link = self._open() if self._open else (yield from self._connect())
            self._connecting.succeeded()
            self._let_in()
            self._on_open(True)
            try:
                session = self._session = Session(self._tools, link, self._where)
                while not self._stopping and not self._must_close(session):
                    if astray := self._is_astray(session):
                        break
                    session.step()
                    self._beat()
                    yield 0
                while self._stopping and not session.drain():
                    self._beat()
                    yield 0
            finally:
                self._on_open(False)
                link.close()
        except LINK_ERRORS as error:
            loss = error
        finally:
            self._session = None
            self._handler.reset()
        # Outside of the clauses, where oslo.log would add the error's text once more.
        if loss is not None and self._stopping:
            LOG.debug("%s: %s", self._where, loss)
        elif loss is not None and link is None:
            self._say_kept_out(f"{self._where}: {type(loss).__name__}: {loss}")
        elif loss is not None:
            why = session.why_lost() if session else ""
            LOG.warning("%s: %s: %s%s", self._where, type(loss).__name__, loss, why)
            self._learn_of(loss)
            self._on_lost()
        if session is None:
            self._connecting.failed()
        elif not astray:  # which cost nothing, for nothing was read
            if session.acknowledged:
                self._sessions.succeeded()
            self._sessions.failed()

    def _learn_of(self, loss: Exception) -> None:
        if isinstance(loss, NotAllowed) and _TOO_MANY in str(loss):
            for consumer_need in self._tools.consumer_needs.values():
                consumer_need.lost_its_consumer = True

    def _must_hold(self) -> bool:
        """Return whether to connect also while the store is away.

        It is for the queues to have a consumer, and for the pool's to be bound to exchanges that come.
        """
        if not self._tools.looks_after or self.bus.virtual_url is not None:
            return False
        now = self._clock()
        self._away_since = now if self._away_since is None else self._away_since
        if now < self._away_since + _HOLD_AFTER:
            return False
        retained = any(consumer_need.is_there for consumer_need in self._tools.consumer_needs.values())
        return retained or bool(self._tools.topology.bound_to)

    def _say_kept_out(self, why: str) -> None:
        """Say why a broker can't be reached, or keeps us out: where that is news, and then once a minute."""
        now = self._clock()
        self._said = {text: again_at for text, again_at in self._said.items() if again_at > now}
        if why not in self._said:
            self._said[why] = now + _SAY_AGAIN
            LOG.warning("%s", why)

    def _let_in(self) -> None:
        if self._said:
            self._said.clear()  # the next time that a broker is away is news again
            LOG.info("%s: lets us in again", self._where)

    def _must_close(self, session: Session) -> bool:
        """Give back what waits for the store for too long; return whether that is to close the connection."""
        if not self._handler.must_give_back():
            return False
        level = logging.DEBUG if session.only_holds else logging.WARNING
        LOG.log(level, "%s: gave back what is not stored, until the store answers", self.bus.name)
        return not session.give_back()

    def _is_astray(self, session: Session) -> bool:
        """Tell whether to leave a broker for the next one of the bus, which may have what we read."""
        since = session.useless_since
        if since is None:
            self._astray_after = _ASTRAY_AFTER
            return False
        useless_for = self._clock() - since
        if len(self.bus.brokers) < _SEVERAL or useless_for < self._astray_after:
            return False
        LOG.log(
            logging.WARNING if self._astray_after == _ASTRAY_AFTER else logging.INFO,
            "%s: nothing could be read here for %.0f s: trying the next broker of the bus",
            self._where,
            useless_for,
        )
        self._astray_after = min(_LATER_ASTRAY, 2 * self._astray_after)
        for backoff in (*self._tools.absences.values(), *self._tools.backoffs.values()):
            backoff.succeeded()  # the next broker is asked about all of them at once
        return True

    def _beat(self) -> None:
        self._tell(self._session is not None and self._session.consuming and not self._handler.probing())

    def _connect(self) -> Generator[float, None, Link]:
        """Open a connection, in a thread beside this one, which shows meanwhile that it is alive.

        Resolving a name, trying its addresses and shaking hands all have time limits of their own, which add
        up to more than a thread may be silent for.

        :raises LINK_ERRORS: the broker can't be reached, refuses us, or the consumer is to stop.
        """
        if self.bus.virtual_url is not None:
            return VirtualLink(self.bus.virtual_url, self._waker)
        if not self._brokers:
            self._brokers = self.bus.shuffled()
            if str(self._brokers[-1]) == self._where:  # the one that was tried last
                self._brokers.reverse()
        broker = self._brokers.pop()
        self._where = str(broker)
        largest_body = self._tools.topology.largest_body
        opening = threads.call(
            lambda: AmqpLink(broker, self._client_properties, self._waker, self._channel_limit, largest_body),
            "connecting",
        )
        opening.add_done_callback(lambda _opening: self._waker.wake())
        while not opening.done():
            if self._stopping:
                raise ConnectionAbortedError("given up, for the consumer is to stop")
            self._beat()
            yield _BEAT_INTERVAL
        return opening.result()
