"""A simulated RabbitMQ: queues that count returns, channels, refusals, deaths.

It does what the documentation of RabbitMQ 3.13, 4.2 and 4.3 says of classic and quorum queues, as far as a
consumer can notice. What is published, delivered, returned, acknowledged and dropped is told to a ledger.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import (
    AccessRefused,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    RecoverableChannelError,
    ResourceLocked,
)

from panko_ingest.delivery import Delivery
from tests.simulation.world import Waker, World


@dataclass(slots=True, eq=False)
class Message:
    """One message in one queue."""

    message_id: str
    body: bytes
    exchange: str = ""
    routing_key: str = ""
    delivery_count: int = 0
    acquired_count: int = 0
    delivered: int = 0
    digest: bytes = b""
    """What a dead letter calls it."""

    def returned(self, *, failed: bool) -> None:
        """Count that it came back; ``failed`` where its channel died or it was rejected."""
        self.acquired_count += 1
        self.delivery_count += failed


@dataclass(eq=False)
class Queue:
    """A queue: classic, or quorum with a delivery limit.

    :param counts_returns: every return counts towards the limit (up to 4.2), not only failed ones (4.3).
    """

    name: str
    quorum: bool = False
    limit: int | None = None
    counts_returns: bool = True
    messages: deque[Message] = field(default_factory=deque)
    consumers: list["Consumer"] = field(default_factory=list)
    bindings: set[tuple[str, str]] = field(default_factory=set)
    locked: bool = False
    refused: bool = False

    def headers(self, message: Message) -> dict[str, Any]:
        """Return the headers that the broker adds."""
        if not self.quorum or not message.acquired_count:
            return {}
        if self.counts_returns:
            return {"x-delivery-count": message.acquired_count}
        counts = {"x-acquired-count": message.acquired_count}
        return counts | ({"x-delivery-count": message.delivery_count} if message.delivery_count else {})

    def worn_out(self, message: Message) -> bool:
        """Tell whether the message came back too often to be kept."""
        if not self.quorum or self.limit is None:
            return False
        count = message.acquired_count if self.counts_returns else message.delivery_count
        return count > self.limit


@dataclass(eq=False)
class Consumer:
    """A consumer of a queue on a channel."""

    tag: str
    queue: Queue
    channel: "Channel"
    prefetch: int
    receive: Callable[[Delivery], None]
    number: int
    unacked: int = 0


class Broker:
    """One vhost of a broker.

    :param dropped: called with each message that a queue gives up at its delivery limit.
    :param acked: called with each message that is acknowledged.
    """

    def __init__(
        self, world: World, name: str, *, dropped: Callable[[Message], None], acked: Callable[[Message], None]
    ) -> None:
        self.world = world
        self.name = name
        self.up = True
        self.queues: dict[str, Queue] = {}
        self.exchanges: set[str] = set()
        self.unbindable: set[str] = set()
        self.lets_declare = True
        self.links: list[SimulatedLink] = []
        self.channels_most = 0
        self._dropped = dropped
        self.acked = acked

    def declare(self, queue: Queue) -> Queue:
        """Add a queue."""
        self.queues[queue.name] = queue
        return queue

    def delete(self, name: str) -> list[Message]:
        """Delete a queue, as an operator does, and return what was in it."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return []
        for consumer in list(queue.consumers):
            consumer.channel.cancelled(consumer)
        lost = list(queue.messages)
        for link in self.links:
            for channel in link.channels:
                lost += channel.forget(queue)
        return lost

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange with its bindings."""
        self.exchanges.discard(name)
        for queue in self.queues.values():
            queue.bindings = {binding for binding in queue.bindings if binding[0] != name}

    def publish(self, exchange: str, key: str, message_id: str, body: bytes) -> int:
        """Route a message; return into how many queues it went."""
        found = [
            queue
            for queue in self.queues.values()
            if (exchange, key) in queue.bindings or (not exchange and queue.name == key)
        ]
        for queue in found:
            queue.messages.append(Message(message_id, body, exchange, key))
            self.dispatch(queue)
        return len(found)

    def dispatch(self, queue: Queue) -> None:
        """Hand out what consumers have room for, in turn."""
        while queue.messages:
            free = [one for one in queue.consumers if one.unacked < one.prefetch and one.channel.alive]
            if not free:
                return
            consumer = free[0]
            queue.consumers.remove(consumer)
            queue.consumers.append(consumer)
            consumer.channel.deliver(consumer, queue.messages.popleft())

    def give_back(self, queue: Queue, messages: list[Message], *, failed: bool) -> None:
        """Put messages back where they came from; a quorum queue drops what did so too often."""
        for message in reversed(messages):
            message.returned(failed=failed)
            if queue.worn_out(message):
                self.world.tell(f"{queue.name} drops {message.message_id} at its delivery limit")
                self._dropped(message)
            else:
                queue.messages.appendleft(message)

    def stop(self) -> None:
        """Go down: every connection dies."""
        self.up = False
        for link in list(self.links):
            link.die(ConnectionResetError("the broker went down"))

    def start(self) -> None:
        """Come back with all durable queues."""
        self.up = True


class Channel:
    """A channel: consumers, and what is not acknowledged."""

    def __init__(self, link: "SimulatedLink", number: int) -> None:
        self.link = link
        self.number = number
        self.alive = True
        self.prefetch = 0
        self.consumers: dict[str, Consumer] = {}
        self.unacked: dict[int, tuple[Consumer, Message]] = {}
        self.arrived: set[int] = set()
        """Tags that the client has got."""
        self.refusal: Exception | None = None
        self._tags = 0

    @property
    def broker(self) -> Broker:
        """The broker at the other end."""
        return self.link.broker

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        """Set the prefetch of consumers to come."""
        del prefetch_size, a_global
        self._use()
        self.link.round_trip()
        self._use()
        self.prefetch = prefetch_count

    def consume(self, consumer: Consumer) -> None:
        """Start a consumer."""
        self._use()
        consumer.queue.consumers.append(consumer)
        self.consumers[consumer.tag] = consumer
        self.broker.dispatch(consumer.queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what it has stays unacknowledged, and may still come."""
        self._use()
        consumer = self.consumers.get(consumer_tag)
        if consumer is not None:
            if consumer in consumer.queue.consumers:
                consumer.queue.consumers.remove(consumer)
            if consumer.queue.quorum and self.broker.world.random.random() < 0.5:
                self._take_back(consumer)
        self.link.round_trip()
        self._use()
        self.consumers.pop(consumer_tag, None)

    def _take_back(self, consumer: Consumer) -> None:
        """A quorum queue may take back, and count, what has not arrived when its consumer is cancelled."""
        under_way = [
            tag for tag, (owner, _) in self.unacked.items() if owner is consumer and tag not in self.arrived
        ]
        messages = [self.unacked.pop(tag)[1] for tag in under_way]
        consumer.unacked -= len(messages)
        self.broker.give_back(consumer.queue, messages, failed=False)
        self.broker.dispatch(consumer.queue)

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge one delivery, or all up to it."""
        self._use()
        tag = delivery_tag
        tags = [one for one in self.unacked if one <= tag] if multiple else [tag]
        if not tags or tag not in self.unacked:
            self.close_by_broker()
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        queues = set()
        for one in tags:
            consumer, message = self.unacked.pop(one)
            consumer.unacked -= 1
            self.broker.acked(message)
            queues.add(consumer.queue)
        for queue in sorted(queues, key=lambda queue: queue.name):
            self.broker.dispatch(queue)

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        *,
        auto_delete: bool = True,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look for a queue, or make it."""
        self._use()
        self.link.round_trip()
        self._use()
        there = self.broker.queues.get(queue)
        if arguments and "x-max-length" in arguments:
            self.close_by_broker()
            if not self.broker.lets_declare:
                raise AccessRefused(f"configure access to queue '{queue}' refused")
            raise PreconditionFailed(f"{'inequivalent' if there else 'invalid'} arg 'x-max-length' for queue")
        if there is None and passive:
            self.close_by_broker()
            raise NotFound(f"no queue '{queue}'")
        if there is None:
            there = self.broker.declare(Queue(queue))
        if there.refused:
            self.close_by_broker()
            raise AccessRefused(f"access to queue '{queue}' refused")
        if there.locked:
            self.close_by_broker()
            raise ResourceLocked(f"cannot obtain exclusive access to locked queue '{queue}'")
        return _Declared(queue, len(there.messages), len(there.consumers))

    def exchange_declare(self, exchange: str, type: str, *, durable: bool = False) -> None:
        """Make an exchange."""
        del type, durable
        self._use()
        self.broker.exchanges.add(exchange)

    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Bind a queue."""
        self._use()
        self.link.round_trip()
        self._use()
        if exchange in self.broker.unbindable:
            self.close_by_broker()
            raise AccessRefused(f"access to exchange '{exchange}' refused")
        if exchange not in self.broker.exchanges or queue not in self.broker.queues:
            self.close_by_broker()
            raise NotFound(f"no exchange '{exchange}' or no queue '{queue}'")
        self.broker.queues[queue].bindings.add((exchange, routing_key))

    def deliver(self, consumer: Consumer, message: Message) -> None:
        """Put a delivery on the wire."""
        self._tags += 1
        tag = self._tags
        message.delivered += 1
        consumer.unacked += 1
        self.unacked[tag] = (consumer, message)
        self.link.arrive(lambda: self._hand_over(consumer, message, tag))

    def _hand_over(self, consumer: Consumer, message: Message, tag: int) -> None:
        if tag not in self.unacked:
            return
        self.arrived.add(tag)
        queue = consumer.queue
        delivery = Delivery(
            message.body,
            content_type="application/json",
            content_encoding="utf-8",
            headers=queue.headers(message),
            exchange=message.exchange,
            routing_key=message.routing_key,
            queue=queue.name,
            redelivered=message.delivered > 1,
            tag=tag,
            channel=consumer.number,
        )
        message.digest = delivery.digest()
        self.broker.world.message_of[message.digest] = message.message_id
        consumer.receive(delivery)

    def cancelled(self, consumer: Consumer) -> None:
        """The broker cancels a consumer: its queue is gone, or it took too long."""
        self.consumers.pop(consumer.tag, None)
        if consumer in consumer.queue.consumers:
            consumer.queue.consumers.remove(consumer)
        self.link.arrive(lambda: self._notice_cancel(consumer))

    def _notice_cancel(self, consumer: Consumer) -> None:
        self.refusal = ConsumerCancelled("the broker ended the consumer", (60, 30))

    def forget(self, queue: Queue) -> list[Message]:
        """Drop what is unacknowledged of a queue that is gone; its tags may still be acknowledged."""
        return [message for consumer, message in self.unacked.values() if consumer.queue is queue]

    def close(self) -> None:
        """Close in good order: what is unacknowledged goes back."""
        if self.alive:
            self._end(failed=False)

    def close_by_broker(self) -> None:
        """Close after an error."""
        self._end(failed=True)

    def _end(self, *, failed: bool) -> None:
        self.alive = False
        for consumer in self.consumers.values():
            if consumer in consumer.queue.consumers:
                consumer.queue.consumers.remove(consumer)
        self.consumers.clear()
        returned: dict[Queue, list[Message]] = defaultdict(list)
        for consumer, message in self.unacked.values():
            if self.broker.queues.get(consumer.queue.name) is consumer.queue:
                returned[consumer.queue].append(message)
        self.unacked.clear()
        if self in self.link.channels:
            self.link.channels.remove(self)
        for queue, messages in returned.items():
            self.broker.give_back(queue, messages, failed=failed)
            self.broker.dispatch(queue)

    def _use(self) -> None:
        self.link.use()
        if not self.alive:
            raise self.refusal or RecoverableChannelError("the channel is closed")


@dataclass
class _Declared:
    queue: str
    message_count: int
    consumer_count: int


class SimulatedLink:
    """A connection to a simulated broker, as the consumer knows links.

    :raises OSError: the broker is down.
    """

    is_virtual = False

    def __init__(self, world: World, broker: Broker, waker: Waker) -> None:
        self.world = world
        self.broker = broker
        self.alive = True
        self.channels: list[Channel] = []
        self._numbers = 0
        self._inbox: deque[Callable[[], None]] = deque()
        self._error: Exception | None = None
        self._waker = waker
        world.sleep(world.random.uniform(0.001, 0.02))
        if not broker.up:
            raise ConnectionRefusedError(f"{broker.name}: connection refused")
        broker.links.append(self)

    def channel(self, *, spare: bool = False) -> Channel:
        """Open a channel."""
        del spare
        self.use()
        self._numbers += 1
        channel = Channel(self, self._numbers)
        self.channels.append(channel)
        self.broker.channels_most = max(self.broker.channels_most, len(self.channels))
        return channel

    def use(self) -> None:
        """Check that the connection is up.

        :raises OSError: it is not.
        """
        if not self.alive:
            raise self._error or BrokenPipeError("the connection is closed")

    def consume(
        self,
        channel: Any,
        queue: str,
        tag: str,
        number: int,
        receive: Callable[[Delivery], None],
        timeout: float | None = None,
    ) -> None:
        """Start a consumer, if its queue lets it."""
        del timeout
        channel._use()
        there = self.broker.queues.get(queue)
        refusal: Exception | None = None
        if there is None:
            refusal = NotFound(f"no queue '{queue}'")
        elif there.refused:
            refusal = AccessRefused(f"access to queue '{queue}' refused")
        elif there.locked:
            refusal = ResourceLocked(f"cannot obtain exclusive access to locked queue '{queue}'")
        if there is None or refusal is not None:
            channel.close_by_broker()
            assert refusal is not None
            raise refusal
        channel.consume(Consumer(tag, there, channel, channel.prefetch or 2**16, receive, number))

    def arrive(self, frame: Callable[[], None]) -> None:
        """Put a frame into the socket's buffer."""
        self._inbox.append(frame)
        self._waker.wake()

    def round_trip(self) -> None:
        """Wait for an answer: what came before it is handled first."""
        self.world.sleep(self.world.random.uniform(0.0002, 0.002))
        self._handle(len(self._inbox))

    def serve(self, timeout: float) -> bool:
        """Wait for frames, or to be woken, and handle some of what came."""
        self.use()
        if not self._inbox:
            self._waker.wait(timeout)
        elif self.world.random.random() < 0.5:
            self.world.sleep(0.0005)
        self.use()
        return self._handle(self.world.random.randint(1, 8))

    def keep_alive(self) -> None:
        """Notice that the connection is gone."""
        self.use()

    def _handle(self, most: int) -> bool:
        came = False
        while self._inbox and most:
            self._inbox.popleft()()
            came = True
            most -= 1
            self.use()
        return came

    def die(self, error: Exception | None = None) -> None:
        """Lose the connection: the broker puts everything back."""
        if not self.alive:
            return
        self._error = error or ConnectionResetError("the connection was cut")
        self._close(failed=True)
        self._waker.wake()

    def close(self) -> None:
        """Close in good order."""
        if self.alive:
            self._close(failed=False)

    def _close(self, *, failed: bool) -> None:
        self.alive = False
        self._inbox.clear()
        self.broker.links.remove(self)
        for channel in list(self.channels):
            channel._end(failed=failed)
