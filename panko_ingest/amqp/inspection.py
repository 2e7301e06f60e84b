"""Looking at a broker without changing anything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from amqp.exceptions import AccessRefused, ChannelError, NotFound

from panko_ingest import threads
from panko_ingest.amqp import management, queue_limits
from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.link import IS_STREAM, PRIORITY, Waker, is_absent, words
from panko_ingest.amqp.management import Management
from panko_ingest.amqp.queue_state import Known, QueueState
from panko_ingest.amqp.reaching import reach_any, reach_one
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.errors import BrokerError, ConfigError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding

T = TypeVar("T")


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
    return [answer for answer in queue_answers(bus, names).values() if isinstance(answer, QueueState)]


def queue_answers(bus: Bus, names: Sequence[str]) -> dict[str, QueueState | str]:
    """Return of those of the queues that are there the state, or why the broker does not tell it.

    :raises BrokerError: no broker lets us in.
    """
    if bus.virtual_url is not None:
        return {}
    answers = _visit(bus, lambda link: {name: _ask(link, name) for name in names})
    return {
        name: words(answer) if isinstance(answer, Exception) else answer
        for name, answer in answers.items()
        if not is_absent(answer)
    }


def refused(bus: Bus, names: Sequence[str]) -> dict[str, str]:
    """Return those of the queues that can't be read though they are there, and why.

    One may be a stream, locked, hung, or have no leader.

    :raises BrokerError: no broker lets us in.
    """
    if bus.virtual_url is not None:
        return {}
    reasons = _visit(bus, lambda link: {name: _why_not_read(bus, link, name) for name in names})
    return {name: reason for name, reason in reasons.items() if reason}


def our_consumers(interface: Management | None) -> Mapping[str, int] | None:
    """Return how many consumers of ours, on all hosts, each queue has; None when that can't be asked."""
    try:
        return management.ours(interface.consumers()) if interface else None
    except BrokerError:
        return None


def inspect(bus: Bus, topology: Topology, ours: int | None, interface: Management | None) -> list[Finding]:
    """Return what was found about a bus, good or bad.

    :param ours: consumers that a daemon of ours has on each queue; None when that is not known.
    :param interface: the bus' management interface, where there is one to ask.
    """
    if bus.virtual_url is not None:
        return [Finding(WARNING, bus.name, bus.weakness)]
    told, known = _ask_management(interface, topology, Known(ours))
    how = "encrypted, the server verified" if bus.brokers[0].tls else "not encrypted"
    if bus.weakness:
        how = "encrypted"
        told = [Finding(WARNING, bus.name, bus.weakness), *told]
    try:
        for tls in {broker.tls for broker in bus.brokers if broker.tls}:
            tls.check()
        found = _visit(
            bus,
            lambda link: [Finding(OK, bus.name, f"lets us in; {how}"), *_look(bus, link, topology, known)],
        )
        found += _kept_out(bus)
    except ConfigError as error:
        found = [Finding(FAILURE, bus.name, str(error))]
    except BrokerError as error:
        text = f"{error}: check host, port, user, password and vhost of its URL"
        found = [Finding(FAILURE, bus.name, text)]
    return found + told


def _ask_management(
    interface: Management | None, topology: Topology, known: Known
) -> tuple[list[Finding], Known]:
    if interface is None:
        text = (
            "not asked, so policies, limits, queues that nobody reads, and who else reads are not seen: "
            "set [notification] management_urls to see them"
        )
        return [Finding(OK, "management interface", text)], known
    try:
        queues, consumers = interface.queues(), interface.consumers()
        found = [
            Finding(OK, "management interface", f"{interface}: RabbitMQ {interface.version()}"),
            *queue_limits.judge(interface, topology, queues, consumers),
        ]
    except BrokerError as error:
        text = f"{error}: check [notification] management_urls, or see to it that the plugin is enabled"
        return [Finding(WARNING, "management interface", text)], known
    return found, Known(
        management.ours(consumers), {queue.name for queue in queues if queue.limits.bound_growth}
    )


def _visit(bus: Bus, look: Callable[[AmqpLink], T]) -> T:
    """Return what ``look`` finds at the first broker of a bus that lets us in."""
    return reach_any(bus, partial(_look_at_one, look))


def _look_at_one(look: Callable[[AmqpLink], T], broker: Broker) -> T:
    waker = Waker()
    try:
        link = AmqpLink(broker, {"connection_name": "panko-ingest inspection"}, waker)
        try:
            return look(link)
        finally:
            link.close()
    finally:
        waker.close()


def _kept_out(bus: Bus) -> Iterator[Finding]:
    """Tell which brokers don't let us in though one does: nobody would know until that one is lost."""
    if len(bus.brokers) == 1:
        return
    connect = partial(_look_at_one, lambda _link: None)
    for visit in [threads.call(partial(reach_one, broker, connect), "visit") for broker in bus.brokers]:
        try:
            visit.result()
        except BrokerError as error:
            text = f"{error}: this broker does not let us in, others of the bus do: mend it, or leave it out"
            yield Finding(WARNING, bus.name, text)


def _ask(link: AmqpLink, queue: str) -> QueueState | Exception:
    channel: Any = link.channel()
    try:
        found = channel.queue_declare(queue, passive=True)
    except ChannelError as error:
        refusal: Exception = error
        return refusal
    except TimeoutError:  # where the broker hangs as a whole, the next question gets no channel
        return TimeoutError("the broker does not answer about it, as when its process hangs there")
    channel.close()
    return QueueState(queue, int(found.message_count), int(found.consumer_count))


def _why_not_read(bus: Bus, link: AmqpLink, queue: str) -> str | None:
    state = _ask(link, queue)
    if isinstance(state, Exception):
        return None if is_absent(state) else words(state)
    return IS_STREAM if _is_stream(link, queue) else _why_unknown(bus, state)


def _why_unknown(bus: Bus, state: QueueState) -> str | None:
    """Return why a queue is not known to be empty though the broker says so; None where it is.

    It is asked over connections of its own, which the question costs where nobody can answer it.
    """
    if not state.may_be_unknown:
        return None
    try:
        _visit(bus, lambda link: _get_nothing(link, state.name))
    except BrokerError as error:
        return f"nobody answers for it, as for a quorum queue most of whose nodes are away: {error}"
    return None


def _get_nothing(link: AmqpLink, queue: str) -> None:
    """Ask a queue for a message; one that came in just then goes back to it with the channel."""
    channel: Any = link.channel()
    try:
        channel.basic_get(queue)
    except ChannelError:
        return  # the right is missing, or a queue with a single active consumer is never asked so
    channel.close()


def _look(bus: Bus, link: AmqpLink, topology: Topology, known: Known) -> Iterator[Finding]:
    for name in topology.names:
        state = _ask(link, name)
        if isinstance(state, QueueState):
            yield from _queue(bus, link, topology, state, known)
        elif (
            name == topology.pool
            and topology.declare == "auto"
            and (is_absent(state) or isinstance(state, AccessRefused))
        ):
            yield from _pool_to_be(link, name)
        elif isinstance(state, AccessRefused):
            yield _lacking(f"queue {name}", "read", name)
        elif not is_absent(state):
            yield Finding(FAILURE, f"queue {name}", f"can't be read: {words(state)}")
        else:
            text = "not there: the daemon waits until a publisher (or you) creates it"
            yield Finding(WARNING, f"queue {name}", text)
    if topology.pool:
        yield from _pool(link, topology, known)


def _queue(
    bus: Bus, link: AmqpLink, topology: Topology, state: QueueState, known: Known
) -> Iterator[Finding]:
    subject = f"queue {state.name}"
    if _is_stream(link, state.name):
        yield Finding(FAILURE, subject, f"{IS_STREAM}; it is not read")
        return
    if why := _why_unknown(bus, state):
        yield Finding(FAILURE, subject, f"can't be read: {why}")
        return
    yield Finding(OK, subject, f"{state.messages} messages wait, {state.consumers} consumers")
    if not _may_read(link, state.name):
        yield _lacking(subject, "read", state.name)
    keeper = TopologyKeeper(topology, link)
    if state.name == topology.pool and topology.declare == "auto":
        if isinstance(_why_not_made(link, state.name), AccessRefused):
            yield _lacking(subject, "configure", state.name)
        else:
            yield from _pool_as_it_is(keeper, state.name)
    try:
        if why := keeper.why_not_durable(state.name):
            yield Finding(FAILURE if topology.require_durable else WARNING, subject, why)
    except AccessRefused:  # of those who may not make queues, the broker takes no such question
        if topology.require_durable:
            yield _lacking(subject, "configure", state.name)
    ours = known.ours_on(state.name)
    others = state.consumers - (ours or 0)
    if others > 0 and not topology.pool:
        whose = f"{others} consumers are not of this daemon" if ours is not None else f"{others} consumers"
        yield Finding(
            WARNING,
            subject,
            f"{whose}: each message goes to only one of them and us. If Ceilometer's agent or another "
            "host's is among them, set [notification] pool to get a copy of everything",
        )


def _pool_as_it_is(keeper: TopologyKeeper, name: str) -> Iterator[Finding]:
    try:
        difference = keeper.make_pool(name)
    except ChannelError as error:
        yield Finding(FAILURE, f"queue {name}", f"can't be made or used: {words(error)}")
        return
    if difference:
        text = f"is used as it is, though it differs from what the daemon would make: {difference}"
        yield Finding(WARNING if "x-queue-type" in difference else OK, f"queue {name}", text)


def _pool_to_be(link: AmqpLink, name: str) -> Iterator[Finding]:
    refusal = _why_not_made(link, name)
    if isinstance(refusal, AccessRefused):
        yield _lacking(f"queue {name}", "configure", name)
    elif refusal is not None and "queue limit" in str(refusal):
        yield Finding(FAILURE, f"queue {name}", f"not there, and can't be made: {words(refusal)}")
    else:
        yield Finding(OK, f"queue {name}", "not there yet: the daemon creates it")


def _pool(link: AmqpLink, topology: Topology, known: Known) -> Iterator[Finding]:
    for state in [_ask(link, name) for name in topology.queues]:
        if isinstance(state, QueueState) and not state.consumers and state.name not in known.bounded:
            yield Finding(
                WARNING,
                f"queue {state.name}",
                f"nobody reads it ({state.messages} messages wait), as [notification] pool is set: it grows "
                "without end. Delete it, or let a policy limit its length or the age of its messages",
            )
    seen = {exchange: _is_there(link, exchange) for exchange in topology.exchanges}
    there, absent, hidden = (
        [exchange for exchange, found in seen.items() if found is state] for state in (True, False, None)
    )
    text = f"{len(there)} of {len(seen)} are there"
    text += "".join(
        f"; {words} {', '.join(names)}" for words, names in (("not", absent), ("unseen", hidden)) if names
    )
    if absent and len(absent) == len(seen):
        # Where the daemon binds nothing itself, somebody may have bound the queue to others.
        level = WARNING if topology.declare == "never" else FAILURE
        text += (
            f": nothing gets into queue {topology.pool}, and what is published is lost. Name the exchanges "
            "that services publish on in [notification] notification_control_exchanges, one a line; is it "
            "their vhost?"
        )
        yield Finding(level, "control exchanges", text)
    else:
        yield Finding(OK if there else WARNING, "control exchanges", text)
    if topology.declare != "never":
        refused = hidden + [
            exchange for exchange in there if not _may_bind(link, topology.pool or "", exchange)
        ]
        if refused:
            text = (
                f"the account may not bind queue {topology.pool} to {', '.join(refused)}: rabbitmqctl "
                "set_permissions must give it write on the queue and read on the exchanges"
            )
            yield Finding(FAILURE, "control exchanges", text)


def _lacking(subject: str, right: str, queue: str) -> Finding:
    text = f"the account may not {right} {queue}: rabbitmqctl set_permissions must give it {right} on it"
    return Finding(FAILURE, subject, text)


# Whether we may do something is found out by asking for it in a way that can't be granted: the broker
# looks at the rights first. A passive declare needs no right, or from RabbitMQ 4.3 on any, and tells little.


def _may_read(link: AmqpLink, queue: str) -> bool:
    return _is_allowed(link, "basic_consume", queue, arguments={PRIORITY: "none"})


def _is_stream(link: AmqpLink, queue: str) -> bool:
    # A stream knows but the second of these, any other queue but the first. Which one is refused stands
    # before the queue's name, behind which the broker cuts its text.
    arguments = {PRIORITY: 0, "x-stream-offset": "next"}
    return f"arg '{PRIORITY}'" in str(_refusal(link, "basic_consume", queue, arguments=arguments))


def _why_not_made(link: AmqpLink, queue: str) -> Exception | None:
    arguments = {"x-max-length": "none"}
    return _refusal(link, "queue_declare", queue, durable=True, auto_delete=False, arguments=arguments)


def _may_bind(link: AmqpLink, queue: str, exchange: str) -> bool:
    return _is_allowed(link, "queue_unbind", queue, exchange, "no key that anything is bound with")


def _is_there(link: AmqpLink, exchange: str) -> bool | None:
    """Return whether an exchange is there, None where the account has too few rights to see it."""
    channel: Any = link.channel()
    try:
        channel.exchange_declare(exchange, "topic", passive=True)
    except NotFound:
        return False
    except AccessRefused:
        return None
    channel.close()
    return True


def _is_allowed(link: AmqpLink, method: str, *args: Any, **kwargs: Any) -> bool:
    return not isinstance(_refusal(link, method, *args, **kwargs), AccessRefused)


def _refusal(link: AmqpLink, method: str, *args: Any, **kwargs: Any) -> Exception | None:
    channel: Any = link.channel()
    try:
        getattr(channel, method)(*args, **kwargs)
    except ChannelError as error:
        refusal: Exception = error
        return refusal
    channel.close()
    return None
