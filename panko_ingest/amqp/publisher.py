"""Sending notifications as oslo.messaging's notifier does, for trials and tests."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from amqp.exceptions import AccessRefused, ChannelError, MessageNacked, NotFound
from kombu.connection import Connection
from kombu.messaging import Producer
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from panko_ingest import exact_json
from panko_ingest.amqp import framing
from panko_ingest.amqp.link import LINK_ERRORS, is_absent, words
from panko_ingest.amqp.reaching import reach_any
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.errors import BrokerError

# Seconds in which the broker is to answer a question, and to confirm what it took.
_PATIENCE = 30.0
_NACK_PATIENCE = 15.0
_CLOSE_TIMEOUT = 2.0
_NO_ROUTE = 312
_MESSAGE = "oslo.message"

_ON_A_TEST_BUS = (
    "On a bus for tests --create makes exchange and queue; where services declare them otherwise, as quorum "
    "queues are, they could no longer publish"
)


def opened(notification: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the notification in an envelope, None where it has none; what is no envelope, as it is."""
    if _MESSAGE not in notification:
        return notification
    try:
        inner = exact_json.loads(notification[_MESSAGE])
    except (TypeError, ValueError, RecursionError):
        return None
    return inner if isinstance(inner, dict) else None


def envelope(notification: Mapping[str, Any], *, renew: bool = False) -> bytes:
    """Return a notification in oslo.messaging's envelope 2.0, its message_id and timestamp filled in.

    :param renew: give it a new message_id and the time of now, whatever it has; it can be ``opened``.
    """
    if _MESSAGE in notification and not renew:
        return exact_json.dumps(notification).encode()
    message = dict(opened(notification) or {})
    if renew or not message.get("message_id"):
        message["message_id"] = str(uuid.uuid4())
    if renew or not message.get("timestamp"):
        message["timestamp"] = str(datetime.now(UTC).replace(tzinfo=None))
    message["_unique_id"] = uuid.uuid4().hex
    document = {"oslo.version": "2.0", _MESSAGE: exact_json.dumps(message)}
    return exact_json.dumps(document).encode()


def _to(broker: Broker) -> Connection:
    return Connection(
        **broker.parameters(),
        connect_timeout=10,
        transport=framing.Transport,
        transport_options={"confirm_publish": True},
    )


class Publisher:
    """A connection to the first broker of a bus that lets us in; each message that it takes is confirmed.

    Exchanges and queues that exist are used as they are.

    :param create: make those that are absent, durable and classic. Services that declare them otherwise can't
        publish any more then, so it is for the bus of a test. A bus that kombu emulates has them made anyway.
    :raises BrokerError: the broker can't be reached, or refuses.
    """

    def __init__(self, bus: Bus, *, create: bool = False) -> None:
        self._name = bus.name
        self._create = create
        self._routes: set[tuple[str, str]] = set()
        if bus.virtual_url is None:
            reach_any(bus, lambda broker: self._open(_to(broker)))
            return
        try:
            self._open(Connection(bus.virtual_url))
        except LINK_ERRORS as error:
            raise BrokerError(f"can't reach the broker at {self._name}: {words(error)}") from error

    def _open(self, connection: Connection) -> None:
        self._connection = connection
        try:
            connection.ensure_connection(max_retries=1, timeout=10)
            self._producer = Producer(self._channel())
        except LINK_ERRORS:
            connection.release()
            raise

    def send(self, body: bytes, *, exchange: str, routing_key: str) -> None:
        """Publish one enveloped notification, and wait until the broker has it.

        :raises BrokerError: the broker is gone, refuses it, or says nothing of it for 30 seconds; exchange or
            queue are not there, or the exchange leads it nowhere.
        """
        if (exchange, routing_key) not in self._routes:
            (self._declare if self._create or self._is_virtual else self._look_for)(exchange, routing_key)
            self._routes.add((exchange, routing_key))
        try:
            # A quorum queue gives messages back while it has no leader, to an old channel also afterwards.
            for attempt in Retrying(
                retry=retry_if_exception_type(MessageNacked),
                wait=wait_exponential(0.2, max=2),
                stop=stop_after_delay(_NACK_PATIENCE),
                before_sleep=lambda _: self._change_channel(),
                reraise=True,
            ):
                with attempt:
                    self._producer.publish(
                        body,
                        exchange=exchange,
                        routing_key=routing_key,
                        content_type="application/json",
                        content_encoding="utf-8",
                        delivery_mode=2,
                        mandatory=not self._is_virtual,
                        confirm_timeout=_PATIENCE,
                    )
        except MessageNacked:
            raise BrokerError(
                f"the broker at {self._name} gives back what is published as {routing_key}, as one does "
                "whose queue is full (overflow reject-publish) or has no leader"
            ) from None
        except TimeoutError as error:
            raise BrokerError(
                f"the broker at {self._name} refuses to publish: it took nothing for {_PATIENCE:g} s, "
                "as one does that is short of memory or disk (`rabbitmq-diagnostics alarms` tells)"
            ) from error
        except LINK_ERRORS as error:
            if isinstance(error, ChannelError) and error.reply_code == _NO_ROUTE:
                raise BrokerError(
                    f"the broker at {self._name} has nobody to give it to: no queue is bound to exchange "
                    f"{exchange!r} for {routing_key}, as its publishers bind one. {_ON_A_TEST_BUS}"
                ) from None
            raise BrokerError(f"the broker at {self._name} refuses to publish: {error}") from error

    def _change_channel(self) -> None:
        self._producer.channel.close()
        self._producer = Producer(self._channel())

    def _declare(self, exchange: str, routing_key: str) -> None:
        with self._asking(f"exchange {exchange!r}"):
            self._declare_if_absent("exchange_declare", exchange, "topic", durable=True, auto_delete=False)
        with self._asking(f"queue {routing_key!r}"):
            self._declare_if_absent("queue_declare", routing_key, durable=True, auto_delete=False)
        with self._asking(f"binding queue {routing_key!r} to exchange {exchange!r}"):
            self._producer.channel.queue_bind(routing_key, exchange, routing_key)

    def _look_for(self, exchange: str, routing_key: str) -> None:
        for what, name, method, arguments in (
            ("exchange", exchange, "exchange_declare", ("topic",)),
            ("queue", routing_key, "queue_declare", ()),
        ):
            with self._asking(f"{what} {name!r}"):
                try:
                    self._on_a_channel(method, name, *arguments, passive=True)
                except AccessRefused:
                    continue  # an account may publish without a right to see where it goes
                except NotFound as error:
                    if not is_absent(error):
                        raise
                    raise BrokerError(
                        f"{what} {name!r} is not there at {self._name}: the services make it as they publish"
                        f". {_ON_A_TEST_BUS}"
                    ) from None

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Name what the broker was asked about where it refuses, or does not answer."""
        try:
            yield
        except TimeoutError as error:
            raise BrokerError(
                f"the broker at {self._name} says nothing about {what} for {_PATIENCE:g} s: it or its queue "
                "hangs, or it is short of memory or disk (`rabbitmq-diagnostics alarms` tells)"
            ) from error
        except LINK_ERRORS as error:
            raise BrokerError(f"the broker at {self._name} refuses {what}: {error}") from error

    @property
    def _is_virtual(self) -> bool:
        return bool(self._connection.transport.driver_type != "amqp")

    def _declare_if_absent(self, method: str, name: str, *args: Any, **kwargs: Any) -> None:
        if self._is_virtual:
            getattr(self._producer.channel, method)(name, *args, **kwargs)
            return
        try:
            self._on_a_channel(method, name, *args, passive=True)
        except NotFound:
            self._on_a_channel(method, name, *args, **kwargs)

    def _on_a_channel(self, method: str, *args: Any, **kwargs: Any) -> None:
        channel = self._channel()
        getattr(channel, method)(*args, **kwargs)
        channel.close()  # one on which nothing is answered would not be closed either

    def _channel(self) -> Any:
        """Open a channel; the connection, which may be a new one, waits for no answer without end."""
        if not self._is_virtual:
            self._connection.connection.sock.settimeout(_PATIENCE)
        return self._connection.channel()

    def close(self) -> None:
        """Close the connection; a broker that has ceased to listen is not waited for."""
        if not self._is_virtual and self._connection.connected:
            self._connection.connection.sock.settimeout(_CLOSE_TIMEOUT)
        self._connection.release()
