"""The daemon in the simulated world: workers of the real parts, and a master that starts them again."""

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any

from panko_ingest import batch, breaker
from panko_ingest.amqp import Bus, Topology, consumer as consumers
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import (
    Budget,
    BusPipeline,
    FlowControl,
    MessageProcessor,
    PoisonGuard,
    RecordingThread,
    Solitude,
)
from panko_ingest.shared_state import SharedState
from panko_ingest.storage.models import Event, Trait
from tests.simulation.broker import Broker, SimulatedLink
from tests.simulation.store import Database, SimulatedConnection
from tests.simulation.world import Task, World

PREFETCH = 40
BATCH = 20
MAX_BYTES = 40_000
HANG_LIMIT = 30.0
RECORDING_HANG_LIMIT = 90.0
HOLD_LIMIT = 90.0

_METRICS = Metrics()
"""Of all worlds together: nobody looks at them here, and to make them takes longer than a world lives."""


class Converter(EventConverter):
    """Event definitions with a plugin that does to its worker what a message says."""

    def __init__(self, process: "Process") -> None:
        super().__init__([])
        self._process = process

    def to_event(self, notification: Any, priority: str, bytes_held: Any = None) -> Event | None:
        """Convert, or kill or hang the worker."""
        effect = notification["payload"].get("effect")
        if effect in {"die", "hang"}:
            self._process.suffer(effect)
        metadata = notification["metadata"]
        moment = datetime.datetime(2026, 1, 1)
        return Event(metadata["message_id"], notification["event_type"], moment, [Trait("n", 2, 1)], {})


class Process:
    """One ingest worker: a thread for each bus, and one that records."""

    def __init__(self, daemon: "Daemon", number: int) -> None:
        self.daemon = daemon
        self.number = number
        self.alive = True
        self.graceful = False
        world = daemon.world
        self._recording_slot = daemon.shared.recording_slot(number)
        self._recording_slot.occupy(1000 + number, RECORDING_HANG_LIMIT)
        self.recording = RecordingThread(
            SimulatedConnection(  # type: ignore[arg-type]
                daemon.database, daemon.refused, lambda: self.alive, lambda: self.suffer("die")
            ),
            _METRICS,
            slot=self._recording_slot,
            most=BATCH,
            clock=lambda: world.now,
        )
        budget = Budget(PREFETCH, MAX_BYTES)
        self._solitude = Solitude(lambda: world.now)
        self.pipelines: list[BusPipeline] = []
        self.consumers: list[consumers.AmqpConsumer] = []
        self.links: list[SimulatedLink] = []
        self.flows: list[FlowControl] = []
        slots = daemon.shared.slots(number)
        for broker, slot in zip(daemon.brokers, slots, strict=True):
            slot.occupy(1000 + number)
            self._add_bus(broker, slot, budget)
        self.reading = [
            world.spawn(f"w{number}.{broker.name}", self._reading(consumer, slot), self._ended)
            for broker, consumer, slot in zip(daemon.brokers, self.consumers, slots, strict=True)
        ]
        self.writing = world.spawn(f"w{number}.recording", self.recording.run, self._ended)

    @property
    def tasks(self) -> Sequence[Task]:
        """All threads."""
        return [*self.reading, self.writing]

    def _add_bus(self, broker: Broker, slot: Any, budget: Budget) -> None:
        world = self.daemon.world

        def clock() -> float:
            return world.now

        flow = FlowControl(budget, clock, lambda: self.daemon.shared.deaths)
        pipeline = BusPipeline(
            MessageProcessor(
                Converter(self),
                TypeFilter(["*", "!unwanted.*"]),
                max_size=20_000,
                max_depth=20,
                guard=PoisonGuard(self.daemon.shared, slot),
            ),
            batch.Batcher(BATCH, 1.0, MAX_BYTES // 2, clock),
            flow,
            self.recording,
            breaker.FloodBreaker(0.9, clock),
            _METRICS,
            hold_limit=HOLD_LIMIT,
            solitude=self._solitude,
            bus=broker.name,
            clock=clock,
        )
        consumer = consumers.AmqpConsumer(
            Bus(broker.name, ()),
            self.daemon.topologies[broker.name],
            pipeline,
            beat=slot.beat,
            looks_after=self.number == 0,
            connect=lambda: self._connect(broker, consumer),
            clock=clock,
        )
        self.flows.append(flow)
        self.pipelines.append(pipeline)
        self.consumers.append(consumer)

    def _connect(self, broker: Broker, consumer: Any) -> SimulatedLink:
        link = SimulatedLink(self.daemon.world, broker, consumer._waker)
        self.links.append(link)
        return link

    def _reading(self, consumer: consumers.AmqpConsumer, slot: Any) -> Callable[[], None]:
        def run() -> None:
            consumer.run()
            slot.clear()

        return run

    def suffer(self, effect: str) -> None:
        """Die of a message, or hang; called while it is converted or stored."""
        world = self.daemon.world
        world.tell(f"w{self.number} {effect}s of a message")
        if effect == "die":
            world.after(0.0, self.kill)
        world.wait(None, lambda _wake: None)

    def stop(self) -> None:
        """Stop in good order, as on SIGTERM."""
        if self.alive and not self.graceful:
            self.graceful = True
            for consumer in self.consumers:
                consumer.stop()
            self.recording.hurry()

    def kill(self) -> None:
        """Die at once. What the kernel does then: connections close, transactions are rolled back."""
        if not self.alive:
            return
        self.alive = False
        self.daemon.world.tell(f"w{self.number} is killed")
        for link in self.links:
            link.die()
        for task in self.tasks:
            task.kill()
        self.daemon.died(self, code=-9)

    def _ended(self) -> None:
        """Look at a thread that ended."""
        if not self.alive:
            return
        if any(task.error for task in self.tasks):
            self.daemon.world.after(0.0, self._crash)
        elif all(task.ended for task in self.reading):
            if not self.writing.ended:
                self.recording.finish()
            else:
                self.alive = False
                self.daemon.died(self, code=0 if self.graceful else 1)

    def _crash(self) -> None:
        if self.alive:
            errors = [task.error for task in self.tasks if task.error]
            self.daemon.crashes.append(errors[0])
            self.kill()


class Daemon:
    """The master.

    :param refused: which events the database never takes.
    """

    def __init__(
        self,
        world: World,
        brokers: Sequence[Broker],
        topologies: dict[str, Topology],
        database: Database,
        refused: Callable[[Event], bool],
        workers: int,
    ) -> None:
        self.world = world
        self.brokers = brokers
        self.topologies = topologies
        self.database = database
        self.refused = refused
        self.shared = SharedState(workers, len(brokers))
        self.crashes: list[BaseException] = []
        self.deaths = 0
        self.processes: dict[int, Process] = {}
        self._stopped = False
        for number in range(workers):
            self._start(number)
        self._supervise()

    def _start(self, number: int) -> None:
        there = self.processes.get(number)
        if not self._stopped and (there is None or not there.alive):
            self.processes[number] = Process(self, number)

    def died(self, process: Process, code: int) -> None:
        """Take note of a worker that ended, and start another."""
        self.shared.record_death(process.number)
        if code:
            self.deaths += 1
            self.shared.count_death()
        if not self._stopped:
            self.world.after(self.world.random.uniform(0.05, 0.5), lambda: self._start(process.number))

    def reload(self) -> None:
        """Start all workers anew."""
        for process in list(self.processes.values()):
            process.stop()

    def crash(self) -> None:
        """The whole host goes down and comes back: what the master knew is lost."""
        self._stopped = True
        for process in list(self.processes.values()):
            process.kill()
        self.shared = SharedState(len(self.processes), len(self.brokers))
        self._stopped = False
        for number in self.processes:
            self.world.after(self.world.random.uniform(0.5, 3.0), functools.partial(self._start, number))

    def halt(self) -> None:
        """End the world's last threads."""
        self._stopped = True
        for process in list(self.processes.values()):
            process.kill()

    def _supervise(self) -> None:
        for number, process in list(self.processes.items()):
            slots = [*self.shared.slots(number), self.shared.recording_slot(number)]
            limits = [slot.hang_limit or HANG_LIMIT for slot in slots]
            hung = [
                limit
                for slot, limit in zip(slots, limits, strict=True)
                if slot.seconds_since_heartbeat > limit
            ]
            if process.alive and hung:
                self.world.tell(f"w{number} hangs")
                self.shared.note_hang(1000 + number, hung[0] / 2)
                process.kill()
        self.world.after(1.0, self._supervise)
