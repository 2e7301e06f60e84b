"""What a seed makes of a world: buses, queues, publishers, faults; and what must hold whatever happens."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from panko_ingest import backoff, shared_state
from panko_ingest.amqp import Topology, consumer
from panko_ingest.pipeline import bus_pipeline, recording_thread
from panko_ingest.storage.models import Event
from tests.simulation.broker import Broker, Message, Queue
from tests.simulation.daemon import MAX_BYTES, PREFETCH, Daemon
from tests.simulation.store import Database
from tests.simulation.world import World, simulated

MODULES = [backoff, bus_pipeline, consumer, recording_thread, shared_state]
LARGEST = 18_000
EXCHANGES = ("nova", "openstack")
KEYS = ("notifications.info", "notifications.error")

PUBLISHING = 25.0
"""Seconds in which messages are published and faults begin."""
RECOVERY = 150.0
"""Seconds after the last fault in which everything must be settled."""
PER_HANG = 130.0
"""More of them for a message that hangs three workers, each of which is killed after 30 s."""
BINDING = 25.0
"""Seconds until what is bound again at the latest, whatever was unbound, also by who never saw it there."""
PATIENCE = 20.0
"""Seconds until a message is stored that no fault concerns."""


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass(slots=True)
class Published:
    """What is known of one message."""

    bus: str
    queue: str
    kind: str
    at: float
    message_id: str
    """Its own, which may be that of another message."""
    copies: int = 0
    stored_at: float = 0.0
    excused: bool = False
    """Whether it went with a queue that somebody deleted."""


class Scenario:
    """One world, from its seed.

    :param faults: names of kinds of faults to draw from; all by default.
    """

    def __init__(self, seed: int, faults: Sequence[str] | None = None) -> None:
        self.seed = seed
        self.world = World(seed)
        self.random = self.world.random
        self.database = Database(self.world, on_commit=self._committed)
        self.published: dict[str, Published] = {}
        self.calm_at = 0.0
        self.acked = 0
        self._open: set[str] = set()
        self._unpublished = 0
        self._committed_at = 0.0
        self._violations: list[Violation] = []
        random = self.random
        self.pool = random.random() < 0.3
        self.buses = [self._bus(f"bus{number}") for number in range(random.choice([1, 1, 2, 3]))]
        self.workers = random.choice([1, 2])
        self.kinds = list(faults) if faults is not None else self._draw_faults()
        self.local = all(kind in LOCAL for kind in self.kinds)
        self.hangs = 0
        self.deadly = 0
        self.copies = seed % 5 == 0  # not drawn, so that seeds stay what they are
        """Whether some messages have the message_id of another one."""

    def _draw_faults(self) -> list[str]:
        count = self.random.choice([0, 1, 1, 2, 2, 2, 3, 4])
        return [self.random.choice(list(FAULTS)) for _ in range(count)]

    def _bus(self, name: str) -> Broker:
        broker = Broker(self.world, name, dropped=self._dropped, acked=self._acked)
        broker.exchanges = set(EXCHANGES)
        if not self.pool:
            broker.lets_declare = self.seed % 2 == 0  # not drawn, so that seeds stay what they are
            quorum = self.random.random() < 0.6
            limit = self.random.choice([20, 20, 6])
            counts = self.random.random() < 0.5
            for key in KEYS:
                queue = Queue(key, quorum, limit if quorum else None, counts)
                queue.bindings = {(exchange, key) for exchange in EXCHANGES}
                broker.declare(queue)
        return broker

    def topology(self) -> Topology:
        """Return what the daemon is told to read."""
        return Topology(KEYS, EXCHANGES, pool="pool" if self.pool else None)

    # What must hold at each step.

    def _violated(self, text: str) -> Violation:
        """Note down what did not hold, as the daemon takes what is raised for a fault of store or broker."""
        self._violations.append(Violation(text))
        return self._violations[-1]

    def _acked(self, message: Message) -> None:
        known = self.published[message.message_id]
        self.acked += 1
        if known.kind != "unwanted" and not self._is_stored(message):
            raise self._violated(f"{message.message_id} is acknowledged and not stored")

    def _dropped(self, message: Message) -> None:
        if not self._is_stored(message) and not self.published[message.message_id].excused:
            raise self._violated(
                f"{message.message_id} ({self.published[message.message_id].kind}) came back "
                f"{message.acquired_count} times and was dropped by the broker"
            )

    def _is_stored(self, message: Message) -> bool:
        return self._is_event(message.message_id) or message.digest in self.database.letters

    def _is_event(self, name: str) -> bool:
        """Tell whether a message is stored as an event of its own."""
        known = self.published[name]
        return self.database.types.get(known.message_id) == f"{known.kind}.thing"

    def _committed(self) -> None:
        now = self._committed_at = self.world.now
        for name in [one for one in self._open if self._is_event(one) or one in self.database.told]:
            self._open.discard(name)
            self.published[name].stored_at = now
        for process in self.daemon.processes.values():
            held = sum(flow.messages for flow in process.flows)
            size = sum(flow.bytes for flow in process.flows)
            queues = len(process.flows) * len(KEYS)
            if held > 2 * PREFETCH * queues:  # who changes a prefetch has the old one in hand, too
                raise self._violated(f"{held} messages in hand of {queues} queues")
            if size > MAX_BYTES + queues * PREFETCH * LARGEST:  # which each may have been sent by then
                raise self._violated(f"{size} bytes in hand of {queues} queues")

    # What is published.

    def publish(self, broker: Broker, kind: str) -> None:
        """Publish a message, as soon as the broker lets us."""
        if not broker.up:
            self._unpublished += 1
            self.world.after(1.0, lambda: self._publish_late(broker, kind))
            return
        name = f"m{len(self.published)}-{kind}"
        message_id = self._message_id_of_another() if kind == "copy" else name
        key = self.random.choice(KEYS)
        known = Published(broker.name, key, kind, self.world.now, message_id)
        self.published[name] = known
        body = self._body(message_id, kind, name)
        known.copies = broker.publish(self.random.choice(EXCHANGES), key, name, body)
        if known.copies and kind != "unwanted":
            self._open.add(name)

    def _message_id_of_another(self) -> str:
        """Return one that a message has which was published lately, or which is going to be."""
        lately = [known.message_id for known in self.published.values() if known.kind in {"good", "big"}]
        return self.random.choice([*lately[-10:], f"m{len(self.published) + 1}-good"])

    def _publish_late(self, broker: Broker, kind: str) -> None:
        self._unpublished -= 1
        self.publish(broker, kind)

    def _body(self, message_id: str, kind: str, name: str) -> bytes:
        if kind == "junk":
            return f'{{"message_id": "{message_id}", "broken'.encode()
        payload: dict[str, str] = {"padding": "x" * self.random.choice([0, 50, 300])}
        if kind == "big":
            payload["padding"] = "x" * self.random.randint(4_000, LARGEST - 1000)
        if kind in {"die", "hang"}:
            payload["effect"] = kind
        if kind == "copy":
            payload["name"] = name  # or two of them would be one
        return json.dumps(
            {
                "message_id": message_id,
                "publisher_id": "host",
                "event_type": f"{kind}.thing",
                "priority": "INFO",
                "payload": payload,
                "timestamp": "2026-01-01 00:00:00",
            }
        ).encode()

    def _publish_all(self) -> None:
        random = self.random
        for broker in self.buses:
            for _ in range(random.choice([20, 40, 80])):
                kind = random.choices(["good", "big", "junk", "unwanted", "refused"], [80, 5, 6, 5, 4])[0]
                moment = self.world.now + random.uniform(0.0, PUBLISHING)
                self.world.at(moment, functools.partial(self.publish, broker, kind))
            for _ in range(10 * self.copies):
                moment = self.world.now + random.uniform(0.0, PUBLISHING)
                self.world.at(moment, functools.partial(self.publish, broker, "copy"))

    # The run.

    def run(self) -> None:
        """Run the world, and check what must hold.

        :raises Violation: it did not.
        """
        with simulated(MODULES, self.world):
            topologies = {broker.name: self.topology() for broker in self.buses}
            self.daemon = Daemon(self.world, self.buses, topologies, self.database, _is_refused, self.workers)
            self._publish_all()
            for kind in self.kinds:
                FAULTS[kind](self)
            begin = self.world.now
            self.calm_at = max(self.calm_at, begin + PUBLISHING)
            self.world.run_until(self.calm_at)
            bound = RECOVERY + PER_HANG * self.hangs
            done = self.world.run_until(self.calm_at + bound, self._settled)
            for violation in self._violations:
                raise violation
            self._check_end(done, bound)
            self._check_that_reading_goes_on()
            if self.local:
                self._check_the_others()
            self.world.after(0.0, self.daemon.halt)
            self.world.run_until(self.world.now + 1.0)

    def _settled(self) -> bool:
        return (
            not self._open
            and not self._unpublished
            and all(
                not queue.messages and not any(one.unacked for one in queue.consumers)
                for broker in self.buses
                for queue in broker.queues.values()
            )
        )

    def _check_end(self, done: bool, bound: float) -> None:
        self._check_crashes()
        lost = sorted(one for one in self._open if not self.published[one].excused)
        if not done and lost:
            raise Violation(
                f"{len(lost)} messages are not stored {bound:.0f} s after the last fault: {lost[:5]}"
            )
        left = [
            f"{broker.name}/{queue.name}: {len(queue.messages)}"
            for broker in self.buses
            for queue in broker.queues.values()
            if queue.messages
        ]
        if not done and left:
            raise Violation(f"messages are left {bound:.0f} s after the last fault: {left}")
        doubled = [one for one, count in self.database.events.items() if count != 1]
        if doubled:
            raise Violation(f"stored more than once: {doubled[:5]}")

    def _check_crashes(self) -> None:
        lost = [
            message_id
            for digest, letter in self.database.letters.items()
            if letter.stage == "crash" and not letter.body
            for message_id in [self.world.message_of[digest]]
            if self.published[message_id].kind not in {"die", "hang", "fell"}
        ]
        if lost:
            raise Violation(f"innocent, and taken for what workers died of: {lost}")
        if self.daemon.crashes:
            raise Violation(f"a worker ended by {self.daemon.crashes[0]!r}") from self.daemon.crashes[0]

    def _check_that_reading_goes_on(self) -> None:
        """Whatever was, a message that is published now over each exchange is stored soon."""
        self.world.run_until(self.world.now + BINDING)
        before = set(self.published)
        for broker in self.buses:
            if not self.pool:  # publishers bind their queues whenever they start
                for queue in broker.queues.values():
                    queue.bindings = {(exchange, queue.name) for exchange in EXCHANGES}
            for exchange in EXCHANGES:
                for key in KEYS:
                    message_id = f"m{len(self.published)}-last"
                    self.published[message_id] = Published(
                        broker.name, key, "good", self.world.now, message_id
                    )
                    body = self._body(message_id, "good", message_id)
                    if not broker.publish(exchange, key, message_id, body):
                        raise Violation(f"nothing is bound to {exchange} for {key} at {broker.name}")
                    self._open.add(message_id)
        if not self.world.run_until(self.world.now + PATIENCE, lambda: not (self._open - before)):
            raise Violation(f"not stored {PATIENCE:.0f} s after all was well: {sorted(self._open)[:5]}")

    def _check_the_others(self) -> None:
        """What only one bus or one queue suffers from holds up no other."""
        one_queue = not self.pool and all(kind in LOCAL_TO_A_QUEUE for kind in self.kinds)
        for message_id, known in self.published.items():
            suffers = known.bus == self.buses[0].name and not (one_queue and known.queue != KEYS[0])
            if suffers or known.kind == "unwanted" or not known.copies:
                continue
            if known.stored_at - known.at > PATIENCE:
                raise Violation(
                    f"{message_id} in {known.queue} of {known.bus} was stored after "
                    f"{known.stored_at - known.at:.1f} s, although only one place had {', '.join(self.kinds)}"
                )

    # Faults. Each schedules its own beginning and end.

    def first_queue(self, broker: Broker) -> list[Queue]:
        """Return the queue that suffers where one does, if it is there."""
        queue = broker.queues.get("pool" if self.pool else KEYS[0])
        return [queue] if queue else []

    def check_progress(self, seconds: float) -> None:
        """Check that something was stored lately, if only this was wrong and something waited to be.

        :raises Violation: nothing was.
        """
        since = self.world.now - seconds
        waits = any(self.published[one].at < since for one in self._open)
        if set(self.kinds) == {"store takes few rows"} and waits and self._committed_at < since:
            raise Violation(f"nothing was stored for {seconds:.0f} s")

    def between(self, least: float, most: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Have a fault at some time, for some time."""
        start = self.world.now + self.random.uniform(0.0, PUBLISHING)
        stop = start + self.random.uniform(least, most)
        self.calm_at = max(self.calm_at, stop)

        def tell_and(what: str, action: Callable[[], None]) -> Callable[[], None]:
            def act() -> None:
                self.world.tell(f"{what}: {action.__name__}")
                action()

            return act

        self.world.at(start, tell_and("begins", begin))
        self.world.at(stop, tell_and("ends", end))

    def once(self, action: Callable[[], None]) -> None:
        """Have something happen at some time."""
        self.between(0.0, 0.0, action, _nothing)


def _nothing() -> None:
    """End a fault that needs no end."""


def _is_refused(event: Event) -> bool:
    return event.event_type.startswith("refused")


def _later(scenario: Scenario, action: str) -> Callable[[], None]:
    """Return an action of a daemon that is not there yet."""

    def act() -> None:
        getattr(scenario.daemon, action)()

    return act


def _store(flag: str, least: float, most: float) -> Callable[[Scenario], None]:
    def fault(scenario: Scenario) -> None:
        database = scenario.database

        def store_fails() -> None:
            setattr(database, flag, True)

        def store_works() -> None:
            setattr(database, flag, False)

        scenario.between(least, most, store_fails, store_works)

    return fault


def _slow_store(scenario: Scenario) -> None:
    def slow() -> None:
        scenario.database.slow = scenario.random.uniform(0.5, 5.0)

    def quick() -> None:
        scenario.database.slow = 0.004

    scenario.between(2.0, 30.0, slow, quick)


_SHRINKING = 28.0
"""Seconds until a batch is small enough for a store that takes few rows."""


def _few_rows(scenario: Scenario) -> None:
    """Whatever writes more than a few rows takes longer than a statement may."""

    def narrow() -> None:
        scenario.database.most_rows = scenario.random.randint(1, 3)
        scenario.database.slow = 1.0

    def wide() -> None:
        scenario.database.most_rows = None
        scenario.database.slow = 0.004
        scenario.check_progress(_SHRINKING)

    scenario.between(30.0, 50.0, narrow, wide)


def _lost_answers(scenario: Scenario) -> None:
    def lossy() -> None:
        scenario.database.loses_answers = 0.5

    def sound() -> None:
        scenario.database.loses_answers = 0.0

    scenario.between(2.0, 20.0, lossy, sound)


def _broker_down(scenario: Scenario) -> None:
    broker = scenario.buses[0]
    scenario.between(0.5, 20.0, broker.stop, broker.start)


def _cut(scenario: Scenario) -> None:
    broker = scenario.buses[0]

    def cut() -> None:
        for link in list(broker.links):
            if scenario.random.random() < 0.7:
                link.die()

    for _ in range(scenario.random.randint(1, 4)):
        scenario.once(cut)


def _cut_often(scenario: Scenario) -> None:
    """The connection breaks so often that little is committed in between."""
    broker = scenario.buses[0]
    for queue in broker.queues.values():
        queue.limit = queue.limit and 20  # RabbitMQ 4's own; no patience is enough for less
    start = scenario.world.now + scenario.random.uniform(0.0, 5.0)
    pauses = [scenario.random.uniform(0.7, 1.0) for _ in range(35)]

    def cut() -> None:
        scenario.database.slow = 4.0
        for link in list(broker.links):
            link.die()

    def quick() -> None:
        scenario.database.slow = 0.004

    for number in range(len(pauses)):
        scenario.world.at(start + sum(pauses[:number]), cut)
    scenario.calm_at = max(scenario.calm_at, start + sum(pauses))
    scenario.world.at(start + sum(pauses), quick)


def _flag_queue(flag: str) -> Callable[[Scenario], None]:
    def fault(scenario: Scenario) -> None:
        broker = scenario.buses[0]

        def refuse() -> None:
            for queue in scenario.first_queue(broker):
                setattr(queue, flag, True)
                for one in list(queue.consumers):
                    one.channel.cancelled(one)

        def allow() -> None:
            for queue in broker.queues.values():
                setattr(queue, flag, False)

        scenario.between(1.0, 40.0, refuse, allow)

    return fault


def _queue_deleted(scenario: Scenario) -> None:
    broker = scenario.buses[0]
    kept: list[Queue] = []

    def delete() -> None:
        for queue in scenario.first_queue(broker):
            kept.append(queue)
            for message in broker.delete(queue.name):
                scenario.published[message.message_id].excused = True
                scenario._open.discard(message.message_id)

    def make_again() -> None:
        for queue in kept:
            if queue.name not in broker.queues and not scenario.pool:
                again = Queue(queue.name, queue.quorum, queue.limit, queue.counts_returns)
                again.bindings = set(queue.bindings)
                broker.declare(again)
        kept.clear()

    scenario.between(0.1, 20.0, delete, make_again)


def _exchange_deleted(scenario: Scenario) -> None:
    broker = scenario.buses[0]

    def delete() -> None:
        broker.delete_exchange("nova")

    def make_again() -> None:
        broker.exchanges.add("nova")
        if not scenario.pool:
            for key in KEYS:
                if key in broker.queues:
                    broker.queues[key].bindings.add(("nova", key))

    scenario.between(0.1, 20.0, delete, make_again)


def _unbindable(scenario: Scenario) -> None:
    broker = scenario.buses[0]

    def refuse() -> None:
        broker.unbindable.add("nova")

    def allow() -> None:
        broker.unbindable.discard("nova")

    scenario.between(1.0, 20.0, refuse, allow)


def _killed(scenario: Scenario) -> None:
    def kill() -> None:
        scenario.random.choice(list(scenario.daemon.processes.values())).kill()

    for _ in range(scenario.random.randint(1, 5)):
        scenario.once(kill)


def _host_down(scenario: Scenario) -> None:
    scenario.once(_later(scenario, "crash"))


def _reload(scenario: Scenario) -> None:
    for _ in range(scenario.random.randint(1, 3)):
        scenario.once(_later(scenario, "reload"))


def _poison(effect: str) -> Callable[[Scenario], None]:
    def fault(scenario: Scenario) -> None:
        if scenario.deadly:
            return  # two at a time in one small queue would need more deaths than its limit allows
        scenario.deadly += 1
        scenario.hangs += effect == "hang"
        scenario.once(lambda: scenario.publish(scenario.buses[0], effect))

    return fault


def _junk(scenario: Scenario) -> None:
    def flood() -> None:
        for _ in range(150):
            scenario.publish(scenario.buses[0], "junk")

    scenario.once(flood)


def _big_messages(scenario: Scenario) -> None:
    def flood() -> None:
        for _ in range(80):
            scenario.publish(scenario.buses[0], "big")

    scenario.once(flood)


FAULTS: dict[str, Callable[[Scenario], None]] = {
    "store away": _store("away", 1.0, 30.0),
    "store long away": _store("away", 95.0, 140.0),
    "store frozen": _store("frozen", 1.0, 40.0),
    "store takes no rows": _store("reads_only", 1.0, 60.0),
    "store slow": _slow_store,
    "store takes few rows": _few_rows,
    "answers lost": _lost_answers,
    "broker down": _broker_down,
    "connections cut": _cut,
    "connections cut often": _cut_often,
    "queue refused": _flag_queue("refused"),
    "queue locked": _flag_queue("locked"),
    "queue deleted": _queue_deleted,
    "exchange deleted": _exchange_deleted,
    "exchange unbindable": _unbindable,
    "workers killed": _killed,
    "host down": _host_down,
    "reload": _reload,
    "message that kills": _poison("die"),
    "message that hangs": _poison("hang"),
    "message that kills who stores it": _poison("fell"),
    "junk": _junk,
    "big messages": _big_messages,
}
LOCAL = frozenset({
    "broker down", "connections cut", "queue refused", "queue locked", "queue deleted", "exchange deleted",
    "exchange unbindable", "junk", "big messages",
})  # fmt: skip
"""Faults of one bus, which must cost the others nothing."""
LOCAL_TO_A_QUEUE = frozenset({"queue refused", "queue locked", "queue deleted"})
"""Faults of the first queue of a bus."""
