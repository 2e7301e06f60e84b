"""Judging what RabbitMQ's management interface tells: what may cost events, and what to do about it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from panko_ingest.amqp.management import Binding, Management, Queue, QueueConsumer, QueueLimits
from panko_ingest.amqp.topology import Topology
from panko_ingest.findings import OK, WARNING, Finding

MIN_DELIVERIES = 10
"""Returns of a message that a queue should bear: each restart of a worker and each outage may be one."""

MIN_AGE = 3600.0
"""Seconds that messages should be able to wait: an outage of the database may last that long."""

_MADE_ANEW = ", delete the queue when it is empty, and let them make it anew"
_NOTIFICATIONS = re.compile(r".+\.(audit|critical|debug|error|info|sample|warn)")


def judge(
    management: Management,
    topology: Topology,
    queues: Sequence[Queue],
    consumers: Sequence[QueueConsumer],
) -> Iterator[Finding]:
    """Yield what was found about the queues that are read, and those that should be.

    :raises BrokerError: the management interface does not answer.
    """
    there = {queue.name: queue for queue in queues}
    for name in topology.names:
        if name in there:
            yield from _of_ours(management, topology, there[name], consumers)
    bindings = management.bindings()
    keys = {*topology.queues, *_published_keys(bindings)}
    exchanges = {*topology.exchanges, *(binding.exchange for binding in bindings if binding.key in keys)}
    notifying = [
        binding for binding in bindings if binding.exchange in exchanges and any(map(binding.takes, keys))
    ]
    yield from _unread(topology, there, notifying)
    if topology.pool in there:
        yield from _bindings_of_pool(management, topology, bindings)


def _published_keys(bindings: Iterable[Binding]) -> Iterator[str]:
    """Yield the keys of notifications, of whichever topic, that services publish with.

    For each of them they make a queue of that name, bound with that key.
    """
    for binding in bindings:
        if binding.key == binding.queue and _NOTIFICATIONS.fullmatch(binding.key):
            yield binding.key


def _of_ours(
    management: Management,
    topology: Topology,
    queue: Queue,
    consumers: Sequence[QueueConsumer],
) -> Iterator[Finding]:
    subject, limits = f"queue {queue.name}", queue.limits
    because = f" (policy {queue.policy!r})" if queue.policy else ""
    if limits.bound_growth:
        yield Finding(OK, subject, f"holds {_bounds(limits)}{because}; beyond that {_what_goes(limits)}")
    elif topology.pool:
        yield Finding(
            WARNING,
            subject,
            "nothing bounds it: while the daemon is stopped it grows until the broker blocks all publishers. "
            f"Bound it: {_policy_command(management, queue.name)}",
        )
    for text in _dangers(queue, topology.consumer_timeout):
        yield Finding(WARNING, subject, f"{text}{because}")
    names = sorted(
        {str(consumer) for consumer in consumers if consumer.queue == queue.name and not consumer.is_ours}
    )
    if names:
        yield Finding(OK, subject, f"is read by others: {'; '.join(names)}")


def _dangers(queue: Queue, consumer_timeout: float) -> Iterator[str]:
    limits = queue.limits
    if queue.deletes_itself:
        yield (
            "is deleted, with all that it holds, when its last reader goes, as at restarts of the daemon: "
            f"give the services [oslo_messaging_rabbit] amqp_auto_delete = false{_MADE_ANEW}"
        )
    if not queue.durable:
        yield (
            "is lost, with all that it holds, when the broker restarts: give the services "
            f"[oslo_messaging_rabbit] rabbit_quorum_queue or amqp_durable_queues = true{_MADE_ANEW}"
        )
    if limits.age is not None and limits.age < MIN_AGE:
        yield (
            f"drops messages that waited for {limits.age:g} s, which a longer outage of the database costs: "
            f"let message-ttl be at least {MIN_AGE * 1000:.0f}"
        )
    if limits.unused is not None:
        yield (
            f"is deleted, with all that it holds, when nobody read it for {limits.unused:g} s: unset expires"
        )
    if limits.patience is not None and limits.patience < consumer_timeout:
        yield (
            f"takes messages away that are unacknowledged for {limits.patience:g} s: set [notification] "
            f"consumer_timeout = {limits.patience:g}, which is {consumer_timeout:g} now"
        )
    if queue.kind != "quorum" or limits.deliveries is None or limits.deliveries < 0:
        return
    fate = "sets aside" if limits.keeps_dropped else "drops"
    text = f"{fate} a message that was given back more than {limits.deliveries} times"
    if limits.deliveries < MIN_DELIVERIES:
        yield (
            f"{text}, and each restart of a worker and each outage counts: let delivery-limit be at least "
            f"{MIN_DELIVERIES}"
        )
    elif not limits.keeps_dropped:
        yield f"{text}: let a policy give it a dead-letter-exchange, which keeps such a message"


def _bounds(limits: QueueLimits) -> str:
    parts = []
    if limits.length is not None:
        parts.append(f"at most {limits.length} messages")
    if limits.bytes is not None:
        parts.append(f"at most {limits.bytes} bytes")
    if limits.age is not None:
        parts.append(f"messages for {limits.age:g} s")
    return ", ".join(parts)


def _what_goes(limits: QueueLimits) -> str:
    if limits.refuses_new:
        return "new ones are refused"
    return "the oldest go to a dead letter exchange" if limits.keeps_dropped else "the oldest are lost"


def _policy_command(management: Management, queue: str) -> str:
    pattern = "^" + queue.replace(".", r"\.") + "$"
    return (
        f"rabbitmqctl set_policy --vhost {management.vhost} --apply-to queues {queue} '{pattern}' "
        """'{"max-length": 5000000}'"""
    )


def _unread(topology: Topology, there: Mapping[str, Queue], bindings: Sequence[Binding]) -> Iterator[Finding]:
    """Look for queues of notifications that nobody reads, neither we nor others."""
    told = {
        topology.pool,
        *topology.queues,
    }  # by what is said of ours, or by those who asked the broker itself
    for name in sorted({binding.queue for binding in bindings} & there.keys() - told):
        queue, bound = there[name], [binding for binding in bindings if binding.queue == name]
        if queue.consumers or queue.limits.bound_growth:
            continue
        where = ", ".join(sorted({binding.exchange for binding in bound}))
        if any(binding.key == name for binding in bound):
            remedy = (
                "read it by [oslo_messaging_notifications] topics and [notification] priorities, or delete "
                "it and let the services no longer send to it"
            )
        else:
            remedy = (
                "it grows until the broker blocks all publishers. Delete it if it is a pool that was given "
                "up, or let a policy limit its length or the age of its messages"
            )
        yield Finding(
            WARNING,
            f"queue {name}",
            f"nobody reads it, and nothing bounds it ({queue.messages} messages; bound to {where}): {remedy}",
        )


def _bindings_of_pool(
    management: Management, topology: Topology, bindings: Sequence[Binding]
) -> Iterator[Finding]:
    """Look for what the queue of the pool should get and does not, and for what it gets and should not."""
    pool = topology.pool or ""
    ours = [binding for binding in bindings if binding.queue == pool]
    for name in topology.queues:
        wanted = {binding.exchange for binding in bindings if binding.queue == name == binding.key}
        missing = sorted(wanted - {binding.exchange for binding in ours if binding.takes(name)})
        unlisted = [exchange for exchange in missing if exchange not in topology.exchanges]
        listed = [exchange for exchange in missing if exchange in topology.exchanges]
        if unlisted:
            yield Finding(
                WARNING,
                "control exchanges",
                f"services publish {name} to {', '.join(unlisted)}, of which {pool} gets nothing: "
                "add them to [notification] notification_control_exchanges (which must name all of them)",
            )
        if listed:
            yield Finding(
                WARNING,
                "control exchanges",
                f"{pool} is not bound to {', '.join(listed)} for {name}: the daemon binds it within "
                "seconds, or you must, where [notification] declare is never",
            )
    for binding in ours:
        if binding.exchange in topology.exchanges and any(map(binding.takes, topology.queues)):
            continue
        yield Finding(
            WARNING,
            "control exchanges",
            f"{pool} is bound to {binding.exchange} for {binding.key}, which the configuration does not name "
            f"(any more), and what comes by it is stored: name it, or unbind it by "
            f"`{management.unbinding(binding)}`",
        )
