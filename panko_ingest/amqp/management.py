"""What RabbitMQ's management plugin tells of one vhost, over HTTP: limits, bindings, who reads.

Nothing is ever changed. Its figures may be some seconds old. An account with the tag ``monitoring`` sees
all of it.
"""

import functools
import http.client
import json
import re
import ssl
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

from panko_ingest.amqp.link import PRODUCT
from panko_ingest.amqp.tls import TlsSettings
from panko_ingest.amqp.urls import Bus, host_and_port
from panko_ingest.errors import BrokerError, ConfigError

_PATIENCE = 10.0
_MAX_ANSWER = 256 * 1024 * 1024
_PORTS = {"http": 15672, "https": 15671}
_MILLISECONDS = 1000.0
_DELIVERY_LIMIT, _LIMITS_SINCE = 20, (4, 0)  # of quorum queues by default, since that release of RabbitMQ
_ASKED_SINCE = (4, 3)  # since when what a consumer asks for holds, not the queue's own consumer-timeout
_NUMBER = re.compile(r"\d+")


_Question = ParamSpec("_Question")
_Answer = TypeVar("_Answer")


def _understood(
    ask: Callable[Concatenate["Management", _Question], _Answer],
) -> Callable[Concatenate["Management", _Question], _Answer]:
    """Have a question fail with a BrokerError, too, where what answers is something else."""

    @functools.wraps(ask)
    def asked(self: "Management", /, *question: _Question.args, **named: _Question.kwargs) -> _Answer:
        try:
            return ask(self, *question, **named)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            raise BrokerError(f"{self}: what answers is not RabbitMQ's management plugin") from None

    return asked


class QueueLimits(NamedTuple):
    """What bounds a queue, by its arguments and by policies; None where nothing does.

    ``age``, ``unused`` and ``patience`` are seconds: how long a message may wait, how long the queue may be
    without a consumer, and how long a message may stay unacknowledged. ``deliveries`` is how often a message
    may be given back.
    """

    length: int | None = None
    bytes: int | None = None
    age: float | None = None
    unused: float | None = None
    patience: float | None = None
    deliveries: int | None = None
    refuses_new: bool = False
    keeps_dropped: bool = False

    @property
    def bound_growth(self) -> bool:
        """Whether the queue can't grow without end."""
        return any(limit is not None for limit in (self.length, self.bytes, self.age))


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue: messages that wait or are in hand, consumers, what bounds it, by which policy.

    One that is not durable goes with the broker's restart, one that deletes itself with its last consumer.
    """

    name: str
    kind: str
    messages: int
    consumers: int
    limits: QueueLimits
    policy: str | None = None
    durable: bool = True
    deletes_itself: bool = False


class Binding(NamedTuple):
    """What leads messages of an exchange to a queue, by the key that they are published with.

    ``properties`` is what the management interface calls it, among those of the same exchange and queue.
    """

    queue: str
    exchange: str
    key: str
    properties: str

    def takes(self, key: str) -> bool:
        """Whether it leads to its queue what is published with a key, on a topic exchange."""
        return _matches(self.key.split("."), key.split("."))


class QueueConsumer(NamedTuple):
    """Who consumes from a queue: ``product`` is what its connection calls itself."""

    queue: str
    user: str
    host: str
    name: str
    product: str

    @property
    def is_ours(self) -> bool:
        """Whether it is a daemon of ours, on whichever host."""
        return self.product == PRODUCT

    def __str__(self) -> str:
        return f"{self.user} from {self.host}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True)
class Management:
    """The management interface of a bus. Its repr and its str never show the password.

    :raises ConfigError: (from :meth:`parse`) the URL can't be used; the text holds no password.
    :raises BrokerError: (from all that asks) it can't be asked; the text says why, and what to do about it.
    """

    host: str
    port: int
    prefix: str
    user: str
    password: str = field(repr=False)
    vhost: str
    encrypted: bool = False
    tls: TlsSettings | None = None
    """How to trust it; None: by the system's authorities."""

    def __str__(self) -> str:
        return f"{host_and_port(self.host, self.port)}{self.prefix}"

    @classmethod
    def parse(cls, url: str, bus: Bus) -> "Management":
        """Return what a URL names; without user and password it takes those of the bus."""
        broker = bus.brokers[0]
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(f"{_OPTION}: the port is no number") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigError(f"{_OPTION}: is no URL: write http://user:password@host:15672")
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            raise ConfigError(f"{_OPTION}: write %2F, %3F and %23 for /, ? and # in user and password")
        if parts.scheme == "http" and parts.username is None and broker.tls is not None:
            raise ConfigError(
                f"{_OPTION}: http:// would show the account of the bus, which is encrypted: write https://, "
                "or an account of its own"
            )
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            prefix=parts.path.rstrip("/"),
            user=broker.user if parts.username is None else unquote(parts.username),
            password=broker.password if parts.username is None else unquote(parts.password or ""),
            vhost=broker.vhost,
            encrypted=parts.scheme == "https",
            tls=broker.tls,
        )

    @_understood
    def version(self) -> str:
        """Return RabbitMQ's release."""
        return str(self._get(_OVERVIEW, columns="rabbitmq_version")["rabbitmq_version"])

    @_understood
    def queues(self) -> list[Queue]:
        """Return the queues of the vhost."""
        columns = (
            "name,type,durable,auto_delete,messages,consumers,arguments,policy,effective_policy_definition"
        )
        major, minor, *_ = map(int, _NUMBER.findall(self.version()))
        release = (major, minor)
        return [_queue(found, release) for found in self._get(f"queues/{self._vhost}", columns=columns)]

    @_understood
    def bindings(self) -> list[Binding]:
        """Return how the queues of the vhost are bound; the default exchange is left out."""
        columns = "source,destination,destination_type,routing_key,properties_key"
        return [
            Binding(one["destination"], one["source"], one["routing_key"], one["properties_key"])
            for one in self._get(f"bindings/{self._vhost}", columns=columns)
            if one["source"] and one["destination_type"] == "queue"
        ]

    def unbinding(self, binding: "Binding") -> str:
        """Return the command that takes a binding away, which asks for a password."""
        path = "/".join(
            quote(part, safe="")
            for part in (self.vhost, "e", binding.exchange, "q", binding.queue, binding.properties)
        )
        scheme = "https" if self.encrypted else "http"
        return f"curl -u USER -X DELETE {scheme}://{self}/api/bindings/{path}"

    @_understood
    def consumers(self) -> list[QueueConsumer]:
        """Return who consumes in the vhost; without the tag ``monitoring`` only those of our own account."""
        connections = {
            one["name"]: one.get("client_properties") or {}
            for one in self._get(f"vhosts/{self._vhost}/connections", columns="name,client_properties")
        }
        return [_consumer(one, connections) for one in self._get(f"consumers/{self._vhost}")]

    @property
    def _vhost(self) -> str:
        return quote(self.vhost, safe="")

    def _get(self, path: str, **parameters: str) -> Any:
        credentials = b64encode(f"{self.user}:{self.password}".encode()).decode()
        connection = self._connection()
        query = f"?{urlencode(parameters, safe=',')}" if parameters else ""
        try:
            connection.request(
                "GET", f"{self.prefix}/api/{path}{query}", headers={"Authorization": f"Basic {credentials}"}
            )
            response = connection.getresponse()
            text = response.read(_MAX_ANSWER)
            if response.status == http.client.NOT_FOUND and path != _OVERVIEW:
                # The overview was there before, and what else is asked is a vhost's.
                raise BrokerError(f"{self}: it knows no vhost {self.vhost}, which the URL of the bus names")
            if response.status != http.client.OK:
                raise BrokerError(
                    f"{self}: {_REFUSALS.get(response.status, f'HTTP status {response.status}')}"
                )
            return json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokerError(f"{self}: {reason}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        try:
            if not self.encrypted:
                return http.client.HTTPConnection(self.host, self.port, timeout=_PATIENCE)
            context = self.tls.context() if self.tls else ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=_PATIENCE, context=context)
        except OSError as error:  # of a file
            raise BrokerError(f"{self}: {error}") from None
        except http.client.InvalidURL:
            raise BrokerError(f"{self}: there is no such host") from None


_OPTION = "[notification] management_urls"
_OVERVIEW = "overview"

_REFUSALS = {
    http.client.UNAUTHORIZED: "the account is refused: is the password right, and has it a tag? "
    "`rabbitmqctl set_user_tags USER monitoring` gives it one",
    http.client.NOT_FOUND: "no such page: is this RabbitMQ's management plugin?",
}


def _queue(found: Mapping[str, Any], release: tuple[int, int]) -> Queue:
    kind = found.get("type", "classic")
    limits = _limits(found.get("arguments") or {}, found.get("effective_policy_definition") or {})
    if kind == "quorum" and limits.deliveries is None and release >= _LIMITS_SINCE:
        limits = limits._replace(deliveries=_DELIVERY_LIMIT)
    if release >= _ASKED_SINCE:
        limits = limits._replace(patience=None)
    return Queue(
        name=found["name"],
        kind=kind,
        messages=int(found.get("messages", 0)),
        consumers=int(found.get("consumers", 0)),
        limits=limits,
        policy=found.get("policy"),
        durable=bool(found.get("durable", True)),
        deletes_itself=bool(found.get("auto_delete", False)),
    )


def _limits(arguments: Mapping[str, Any], policy: Mapping[str, Any]) -> QueueLimits:
    """Return what holds: of an argument and a policy the smaller number, as RabbitMQ does."""

    def number(name: str) -> int | None:
        values = [value for value in (arguments.get(f"x-{name}"), policy.get(name)) if isinstance(value, int)]
        return min(values, default=None)

    def seconds(name: str) -> float | None:
        value = number(name)
        return None if value is None else value / _MILLISECONDS

    def word(name: str) -> str:
        return str(arguments.get(f"x-{name}") or policy.get(name) or "")

    return QueueLimits(
        length=number("max-length"),
        bytes=number("max-length-bytes"),
        age=seconds("message-ttl"),
        unused=seconds("expires"),
        patience=seconds("consumer-timeout"),
        deliveries=number("delivery-limit"),
        refuses_new=word("overflow").startswith("reject-publish"),
        keeps_dropped=bool(word("dead-letter-exchange")),
    )


def _consumer(found: Mapping[str, Any], connections: Mapping[str, Mapping[str, Any]]) -> QueueConsumer:
    channel = found.get("channel_details") or {}
    properties = connections.get(channel.get("connection_name", ""), {})
    return QueueConsumer(
        queue=found["queue"]["name"],
        user=str(channel.get("user", "somebody")),
        host=str(channel.get("peer_host", "somewhere")),
        name=str(properties.get("connection_name", "")),
        product=str(properties.get("product", "")),
    )


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Tell whether words are as AMQP's pattern of a topic wants them: ``*`` is any one, ``#`` any number."""
    if not pattern:
        return not words
    first, *rest = pattern
    if first == "#":
        return any(_matches(rest, words[number:]) for number in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _matches(rest, words[1:])


def ours(consumers: Sequence[QueueConsumer]) -> dict[str, int]:
    """Return how many of the consumers of each queue are ours."""
    return Counter(consumer.queue for consumer in consumers if consumer.is_ours)
