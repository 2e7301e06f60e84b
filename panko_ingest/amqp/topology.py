"""Which queues to read from, and seeing to it that they are there.

Without a pool these are the shared ``<topic>.<priority>`` queues. The publishers declare and bind
them; they are never created here, because a queue that is made with other arguments than theirs
would stop the publishers. With a pool it is one queue of that name, bound for every topic and
priority on every control exchange. (oslo.messaging's listener binds the same way.)
"""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import ChannelError, NotFound, PreconditionFailed

from panko_ingest.amqp.link import Channel, Link, is_absent

LOG = logging.getLogger(__name__)

# The end is missing where names are long.
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'(?:.*received (?P<wanted>.+?) but current is (?P<there>.+))?"
)
# Of the type that is not the argument's.
_IMPOSSIBLE = {"x-max-length": "none"}


@dataclass(frozen=True, slots=True)
class Topology:
    """What the operator wants to read.

    :param queues: shared queues, which are also the routing keys that a pool queue is bound with.
    :param declare: ``auto``, ``passive`` or ``never``, as ``[notification] declare`` explains.
    :param consumer_timeout: seconds that a message may be unacknowledged, as the operator says; a broker
        that lets us have a time of our own is asked for it.
    :param largest_body: bytes of a message's body that are kept; one of more is a dead letter.
    """

    queues: Sequence[str]
    exchanges: Sequence[str] = ()
    pool: str | None = None
    declare: str = "auto"
    queue_type: str = "classic"
    require_durable: bool = False
    consumer_timeout: float = 1800.0
    largest_body: int = sys.maxsize

    @property
    def names(self) -> list[str]:
        """The queues to consume from."""
        return [self.pool] if self.pool else list(self.queues)

    @property
    def bound_to(self) -> Sequence[str]:
        """The exchanges that the queue of the pool is to be bound to by us."""
        return self.exchanges if self.pool and self.declare != "never" else ()


class TopologyKeeper:
    """Looks after a topology on one connection: finds its queues, makes and binds the pool's.

    :param beat: called before each question, as a slow broker makes many of them take long.
    :param told: what the log was told already, by this keeper or one before it.
    """

    def __init__(
        self,
        topology: Topology,
        link: Link,
        beat: Callable[[], None] = lambda: None,
        told: set[str] | None = None,
    ) -> None:
        self._topology = topology
        self._link = link
        self._beat = beat
        self._told = set() if told is None else told
        self._channel: Channel | None = None
        self._differences: dict[str, str | None] = {}

    def find(self, name: str) -> bool:
        """Return whether a queue is there, having made it where it is ours to make.

        :raises ChannelError: the broker refuses, or we do, as ``require_durable`` is set and the queue is
            transient; the text says why.
        """
        if self._link.is_virtual:
            self._make_virtual(name)
            return True
        if self._topology.declare == "never":
            return True  # consuming tells
        if name == self._topology.pool and self._topology.declare == "auto":
            self._declare_pool(name)
            return True
        try:
            self._ask("queue_declare", name, passive=True)
        except NotFound as error:
            self.forget(name)
            if not is_absent(error):
                raise
            return False
        self._require_durable(name)
        return True

    def forget(self, name: str) -> None:
        """Forget what is known of a queue, as it may be another one when it is found next."""
        self._differences.pop(name, None)

    def stays(self, name: str) -> None:
        """Take note that a queue is not deleted when its last consumer goes; it may expire all the same."""
        if self._differences.get(name) != "x-expires":
            self._differences[name] = ""

    def deletes_itself(self, name: str) -> bool | None:
        """Return whether a queue that is there is deleted when its last consumer goes; None: who knows.

        The broker tells who may declare the queue alone.
        """
        if self._link.is_virtual:
            return False
        difference = self._first_difference(name)
        return None if difference is None else difference == "auto_delete"

    def expires(self, name: str) -> bool:
        """Return whether the broker tells that a queue is deleted after some time without a consumer.

        It does not where a policy says so, or where an argument that it looks at first hides that one.
        """
        return not self._link.is_virtual and self._first_difference(name) == "x-expires"

    def _first_difference(self, name: str) -> str | None:
        """Return the first thing in which a queue differs from one that stays; None: who knows."""
        if self._topology.declare == "never":
            return None
        if name not in self._differences:
            self._differences[name] = self._ask_for_difference(name)
        return self._differences[name]

    def _ask_for_difference(self, name: str) -> str | None:
        try:
            difference = self._difference(name, durable=True)
            if difference == "durable":
                difference = self._difference(name, durable=False)
        except ChannelError:
            return None
        return difference

    def _difference(self, name: str, *, durable: bool) -> str | None:
        """Return the first thing in which a queue differs from one that stays; None where there is no queue.

        No queue can have the argument that is asked for, so none is ever made by asking.

        :raises ChannelError: the broker refuses to be asked.
        """
        try:
            self._ask("queue_declare", name, durable=durable, auto_delete=False, arguments=_IMPOSSIBLE)
        except PreconditionFailed as error:
            match = _INEQUIVALENT.search(str(error))
            return match["argument"] if match else None
        return None

    def count_consumers(self, name: str) -> int:
        """Return how many consumers a queue has; 0 where the broker does not tell, or must not be asked."""
        if self._link.is_virtual or self._topology.declare == "never":
            return 0
        try:
            return int(self._ask("queue_declare", name, passive=True).consumer_count)
        except ChannelError:
            return 0

    def bind(self, exchange: str) -> bool:
        """Bind the queue of the pool to an exchange; return False where that is not there.

        :raises ChannelError: the broker refuses, or has no such queue; its text says why.
        """
        try:
            for key in self._topology.queues:
                self._ask("queue_bind", self._topology.pool, exchange, key)
        except NotFound as error:
            if not is_absent(error, "exchange"):
                raise
            return False
        return True

    def _make_virtual(self, name: str) -> None:
        channel = self.open()
        topology = self._topology
        channel.queue_declare(name, durable=True)
        for exchange in topology.exchanges:
            channel.exchange_declare(exchange, "topic", durable=True)
            for key in topology.queues if topology.pool else [name]:
                channel.queue_bind(name, exchange, key)

    def _declare_pool(self, name: str) -> None:
        difference = self.make_pool(name)
        if not difference:
            self.stays(name)
        if difference and name not in self._told:
            self._told.add(name)
            LOG.warning("Using queue %r as it is, although it differs: %s", name, difference)
        if difference:
            self._require_durable(name)

    def make_pool(self, name: str) -> str | None:
        """Make the queue of the pool; of one that is there, return how it differs from what is wanted.

        :raises ChannelError: the broker refuses.
        """
        try:
            self._ask(
                "queue_declare",
                name,
                durable=True,
                auto_delete=False,
                arguments={"x-queue-type": self._topology.queue_type},
            )
        except PreconditionFailed as error:
            match = _INEQUIVALENT.search(str(error))
            if match is None:  # such as a limit of queues, where there is none yet
                raise
            if match["wanted"]:
                return f"{match['argument']}: wanted {match['wanted']}, there is {match['there']}"
            return str(error)
        return None

    def why_not_durable(self, name: str) -> str | None:
        """Return why a queue that exists does not survive a restart of the broker; None if it does.

        :raises ChannelError: the broker refuses to be asked.
        """
        if self._difference(name, durable=True) != "durable":
            return None
        return (
            f"queue {name!r} is transient: it loses its messages when the broker restarts. Make the "
            "publishers declare it durable ([oslo_messaging_rabbit] amqp_durable_queues), or set "
            "[notification] pool"
        )

    def _require_durable(self, name: str) -> None:
        if self._topology.require_durable and (why := self.why_not_durable(name)):
            raise ChannelError(why)

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the channel; one that the broker closes by way of an answer is forgotten."""
        self._beat()
        try:
            return getattr(self.open(), method)(*args, **kwargs)
        except ChannelError:
            self._channel = None
            raise

    def open(self) -> Channel:
        """Open the channel that is asked over, unless it is open.

        :raises ChannelError: there may be no more channels.
        """
        if self._channel is None:
            self._channel = self._link.channel()
        return self._channel
