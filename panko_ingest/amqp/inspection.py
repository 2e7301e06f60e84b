"""Looking at a broker without changing anything."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from amqp.exceptions import AccessRefused, NotFound

from panko_ingest.amqp.consumer import LINK_ERRORS
from panko_ingest.amqp.link import AmqpLink, Waker
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.amqp.urls import Bus
from panko_ingest.errors import BrokerError, ConfigError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding

T = TypeVar("T")


class QueueState(NamedTuple):
    """What a broker tells of a queue: messages that no consumer has in hand, and consumers."""

    name: str
    messages: int
    consumers: int


def reach(bus: Bus) -> None:
    """Return if one of the brokers of a bus lets us in.

    :raises BrokerError: none does; the text says why.
    """
    if bus.virtual_url is None:
        _visit(bus, lambda _link: None)


def queue_states(bus: Bus, names: Sequence[str]) -> list[QueueState]:
    """Return the state of those of the queues that are there; none of a virtual transport.

    :raises BrokerError: no broker lets us in.
    """
    if bus.virtual_url is not None:
        return []
    return _visit(bus, lambda link: list(_states(link, names)))


def inspect(bus: Bus, topology: Topology, ours: int | None) -> list[Finding]:
    """Return what was found about a bus, good or bad.

    :param ours: consumers that a daemon of ours has on each queue; None when that is not known.
    """
    if bus.virtual_url is not None:
        text = "an embedded transport, for trying out: it may lose messages when a process dies"
        return [Finding(WARNING, bus.name, text)]
    try:
        return _visit(bus, lambda link: [Finding(OK, bus.name, "lets us in"), *_look(link, topology, ours)])
    except BrokerError as error:
        return [
            Finding(
                FAILURE, bus.name, f"{error}: check host, port, user, password and vhost of transport_url"
            )
        ]


def _visit(bus: Bus, look: Callable[[AmqpLink], T]) -> T:
    """Return what ``look`` finds at the first broker of a bus that lets us in."""
    reasons = []
    for broker in bus.shuffled():
        waker = Waker()
        try:
            link = AmqpLink(broker, {"connection_name": "panko-ingest inspection"}, waker)
            try:
                return look(link)
            finally:
                link.close()
        except LINK_ERRORS as error:
            reasons.append(f"{broker}: {_words(error)}")
        finally:
            waker.close()
    raise BrokerError("; ".join(reasons))


def _words(error: BaseException) -> str:
    return str(
        getattr(error, "reply_text", None)
        or getattr(error, "strerror", None)
        or error
        or type(error).__name__
    )


def _states(link: AmqpLink, names: Sequence[str]) -> Iterator[QueueState]:
    for name in names:
        state = _ask(link, name)
        if isinstance(state, QueueState):
            yield state


def _ask(link: AmqpLink, queue: str) -> QueueState | Exception:
    channel: Any = link.channel()
    try:
        found = channel.queue_declare(queue, passive=True)
    except (NotFound, AccessRefused) as error:
        refusal: Exception = error
        return refusal
    channel.close()
    return QueueState(queue, int(found.message_count), int(found.consumer_count))


def _look(link: AmqpLink, topology: Topology, ours: int | None) -> Iterator[Finding]:
    for name in topology.names:
        state = _ask(link, name)
        if isinstance(state, QueueState):
            yield from _queue(link, topology, state, ours)
        elif isinstance(state, AccessRefused):
            text = "the broker refuses it: rabbitmqctl set_permissions needs configure and read on it"
            yield Finding(FAILURE, f"queue {name}", text)
        elif name == topology.pool and topology.declare == "auto":
            yield Finding(OK, f"queue {name}", "not there yet: the daemon creates it")
        else:
            text = "not there: the daemon waits until a publisher (or you) creates it"
            yield Finding(WARNING, f"queue {name}", text)
    if topology.pool:
        yield from _pool(link, topology)


def _queue(link: AmqpLink, topology: Topology, state: QueueState, ours: int | None) -> Iterator[Finding]:
    subject = f"queue {state.name}"
    yield Finding(OK, subject, f"{state.messages} messages wait, {state.consumers} consumers")
    keeper = TopologyKeeper(topology)
    keeper.attach(link)
    try:
        keeper.require_durable(state.name)
    except ConfigError as error:
        yield Finding(WARNING, subject, str(error))
    others = state.consumers - (ours or 0)
    if others > 0 and not topology.pool:
        whose = f"{others} consumers are not of this daemon" if ours is not None else f"{others} consumers"
        yield Finding(
            WARNING,
            subject,
            f"{whose}: each message goes to only one of them and us. If Ceilometer's agent or another "
            "host's is among them, set [notification] pool to get a copy of everything",
        )


def _pool(link: AmqpLink, topology: Topology) -> Iterator[Finding]:
    for state in _states(link, topology.queues):
        if not state.consumers:
            yield Finding(
                WARNING,
                f"queue {state.name}",
                f"nobody reads it ({state.messages} messages wait), as [notification] pool is set: it grows "
                "without end. Delete it, or let a policy limit its length or the age of its messages",
            )
    absent = []
    for exchange in topology.exchanges:
        channel: Any = link.channel()
        try:
            channel.exchange_declare(exchange, "topic", passive=True)
        except (NotFound, AccessRefused):
            absent.append(exchange)
        else:
            channel.close()
    there = len(topology.exchanges) - len(absent)
    text = f"{there} of {len(topology.exchanges)} are there" + (
        f"; not {', '.join(absent)}" if absent else ""
    )
    yield Finding(OK if there else WARNING, "control exchanges", text)
