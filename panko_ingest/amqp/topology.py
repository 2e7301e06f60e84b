"""Which queues to read from, and seeing to it that they are there.

Without a pool these are the shared ``<topic>.<priority>`` queues. The publishers declare and bind
them; they are never created here, because a queue that is made with other arguments than theirs
would stop the publishers. With a pool it is one queue of that name, bound for every topic and
priority on every control exchange. (oslo.messaging's listener binds the same way.)
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from panko_ingest.amqp.link import Link
from panko_ingest.errors import ConfigError

LOG = logging.getLogger(__name__)

_ABSENT_PAUSE = 10.0
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'.*received (?P<wanted>.+?) but current is (?P<there>.+)"
)


@dataclass(frozen=True, slots=True)
class Topology:
    """What the operator wants to read.

    :param queues: shared queues, which are also the routing keys that a pool queue is bound with.
    :param declare: ``auto``, ``passive`` or ``never``, as ``[notification] declare`` explains.
    """

    queues: Sequence[str]
    exchanges: Sequence[str] = ()
    pool: str | None = None
    declare: str = "auto"
    queue_type: str = "classic"
    require_durable: bool = False

    @property
    def names(self) -> list[str]:
        """The queues to consume from."""
        return [self.pool] if self.pool else list(self.queues)


class TopologyKeeper:
    """Looks after a topology on one connection: finds its queues, and what is still missing.

    Every question is asked on a channel of its own, because a broker answers "no" by closing the
    channel.

    :param beat: called before each question, as a slow broker makes many of them take long.
    """

    def __init__(self, topology: Topology, beat: Callable[[], None] = lambda: None) -> None:
        self._topology = topology
        self._beat = beat
        self._shown: set[str] = set()
        self._unbound: set[str] = set()
        self._absent_until: dict[str, float] = {}
        self._link: Link | None = None
        self._channel: Any = None
        self.consumers: dict[str, int] = {}
        """Consumers that each queue had when it was looked at."""

    def attach(self, link: Link) -> None:
        """Start over on a new connection."""
        self._link = link
        self._channel = None
        self._unbound = set(self._topology.exchanges) if self._topology.pool else set()
        self.consumers.clear()

    def find(self, names: Sequence[str]) -> list[str]:
        """Return those of the queues that are there now, making what is ours to make.

        :raises ConfigError: ``require_durable`` is set and a queue is transient.
        """
        assert self._link is not None  # noqa: S101 - attach() comes first
        if self._link.is_virtual:
            return self._make_virtual(names)
        if self._topology.declare == "never":
            now = time.monotonic()
            return [name for name in names if self._absent_until.get(name, 0.0) <= now]
        return [name for name in names if self._look(name)]

    def mark_absent(self, name: str) -> None:
        """Remember that consuming from a queue found nothing, so that it is left out for a while."""
        self._absent_until[name] = time.monotonic() + _ABSENT_PAUSE

    def bind_missing(self) -> None:
        """Bind the pool queue to the exchanges that have come into being."""
        pool = self._topology.pool
        if pool is None or self._topology.declare == "never":
            return
        for exchange in sorted(self._unbound):
            if not self._ask("exchange_declare", exchange, "topic", passive=True):
                continue
            for key in self._topology.queues:
                self._open().queue_bind(pool, exchange, key)
            self._unbound.discard(exchange)

    @property
    def complete(self) -> bool:
        """Whether every exchange is bound."""
        return not self._unbound

    def _make_virtual(self, names: Sequence[str]) -> list[str]:
        channel = self._open()
        keys = self._topology.queues
        for exchange in self._topology.exchanges:
            channel.exchange_declare(exchange, "topic", durable=True)
        for name in names:
            channel.queue_declare(name, durable=True)
            for exchange in self._topology.exchanges:
                for key in keys if self._topology.pool else [name]:
                    channel.queue_bind(name, exchange, key)
        self._unbound.clear()
        return list(names)

    def _look(self, name: str) -> bool:
        topology = self._topology
        if name == topology.pool and topology.declare == "auto":
            return self._declare_pool(name)
        found = self._ask("queue_declare", name, passive=True)
        if found:
            self.consumers[name] = found.consumer_count
            if topology.require_durable:
                self.require_durable(name)
        return bool(found)

    def _declare_pool(self, name: str) -> bool:
        difference = self.make_pool(name)
        if difference:
            if name not in self._shown:
                self._shown.add(name)
                LOG.warning("Using queue %r as it is, although it differs: %s", name, difference)
            if self._topology.require_durable:
                self.require_durable(name)
        return True

    def make_pool(self, name: str) -> str | None:
        """Make the queue of the pool; of one that is there, return how it differs from what is wanted."""
        try:
            self._open().queue_declare(
                name,
                durable=True,
                auto_delete=False,
                arguments={"x-queue-type": self._topology.queue_type},
            )
        except PreconditionFailed as error:
            self._channel = None
            match = _INEQUIVALENT.search(str(error))
            if match:
                return f"{match['argument']}: wanted {match['wanted']}, there is {match['there']}"
            return str(error)
        return None

    def require_durable(self, name: str) -> None:
        """Return if a queue that exists survives a restart of the broker.

        :raises ConfigError: it does not.
        """
        try:
            self._open().queue_declare(name, durable=True, auto_delete=False)
        except PreconditionFailed as error:
            self._channel = None
            match = _INEQUIVALENT.search(str(error))
            if match and match["argument"] == "durable":
                raise ConfigError(
                    f"queue {name!r} is transient: it loses its messages when the broker restarts. "
                    "Make the publishers declare it durable ([oslo_messaging_rabbit] "
                    "amqp_durable_queues), set [notification] pool, or unset require_durable"
                ) from None

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method whose failure means "not there"; return its answer, or None."""
        self._beat()
        try:
            return getattr(self._open(), method)(*args, **kwargs) or True
        except NotFound:
            self._channel = None
            return None
        except AccessRefused as error:
            self._channel = None
            if args[0] not in self._shown:
                self._shown.add(args[0])
                LOG.warning("The broker refuses %s on %r: %s", method, args[0], error)
            return None

    def _open(self) -> Any:
        assert self._link is not None  # noqa: S101 - attach() comes first
        if self._channel is None:
            self._channel = self._link.channel()
        return self._channel
