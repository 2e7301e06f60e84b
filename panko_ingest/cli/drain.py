"""``panko-ingest drain``: reads until the queues are empty."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from oslo_config import cfg

from panko_ingest import amqp, storage, threads
from panko_ingest.cli import arguments, output
from panko_ingest.errors import ConfigError
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import BusPipeline, RecordingThread
from panko_ingest.workers.from_config import (
    budget,
    bus_pipeline,
    buses,
    event_converter,
    message_processor,
    topology,
)

_LOOK_INTERVAL = 0.5
_PATIENCE = 3.0


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "drain",
        help="read until the queues are empty",
        description="Store what waits in the queues as the daemon does, beside it or without it, until "
        "they are empty and all is committed. Exit code 0: they are; 1: messages are left, or none of the "
        "queues of a bus is there.",
    )
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="leave what is left after so long"
    )
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Read until the queues are empty; exit code 1 where messages are left."""
    with contextlib.closing(storage.get_connection_from_config(conf)) as connection:
        connection.ping()
        drain = _Drain(conf, connection)
        states = drain.run(conf.command.timeout)
    count = drain.metrics.registry.get_sample_value
    told = [
        f"{count(f'panko_ingest_{name}_total') or 0:.0f}" for name in ("messages_received", "events_recorded")
    ]
    output.write(f"{told[0]} messages read, {told[1]} events stored")
    for (where, name), reason in drain.refused.items():
        output.tell(f"{name}: is not read at {where}: {reason}")
    for state in states:
        if state.messages:
            output.tell(f"{state.name}: {state.messages} messages are left")
        elif state.consumers:
            output.tell(
                f"{state.name}: empty, but {state.consumers} others read it, too: what they have in hand "
                "can't be seen here"
            )
    for bus in drain.without_queues:
        output.tell(f"{bus.title}: none of its queues is there: {', '.join(drain.queues)}")
    if drain.in_hand:
        output.tell(f"{drain.in_hand} messages in hand could not be stored and go back to their queues")
    is_left = drain.without_queues or drain.in_hand or drain.refused
    return int(bool(is_left) or any(state.messages for state in states))


class _Drain:
    """Reads the queues of the configured buses until they are empty and all is committed."""

    def __init__(self, conf: cfg.ConfigOpts, connection: storage.Connection) -> None:
        self.metrics = Metrics()
        self._conf = conf
        self._connection = connection
        self._converter = event_converter(conf)
        self._buses = buses(conf)
        for bus in self._buses:
            if bus.virtual_url is not None:
                raise ConfigError(
                    f"{bus.name} is an embedded transport, which does not tell what waits in it: that takes "
                    "RabbitMQ"
                )
        self._topology = topology(conf)
        self.queues = self._topology.names
        self.without_queues: list[amqp.Bus] = []
        """Buses that had none of the queues when they were looked at last."""
        self.refused: dict[tuple[str, str], str] = {}
        """Why a broker does not let us read a queue, by bus and queue: those of most buses have one name."""
        self.in_hand = 0
        """Messages that were given up in hand, and go back to their queues when the process ends."""

    def run(self, timeout: float | None) -> list[amqp.QueueState]:
        """Read for so many seconds at most; return the queues that are not empty then, or others', too."""
        end = time.monotonic() + timeout if timeout is not None else None
        for bus in self._buses:
            for name, reason in amqp.refused(bus, self.queues).items():
                self._note_refusal(bus, name, reason)
        while True:
            self._read(end)
            # Messages that were on their way to us when we stopped are back in their queues by now.
            states = list(self._states())
            is_over = self.in_hand or (end is not None and time.monotonic() >= end)
            if is_over or not self._can_go_on(states):
                return [state for _, state in states if state.messages or state.consumers]

    def _states(self) -> Iterator[tuple[amqp.Bus, amqp.QueueState]]:
        self.without_queues = []
        for bus in self._buses:
            states = amqp.queue_states(bus, self.queues)
            if not states:
                self.without_queues.append(bus)
            yield from ((bus, state) for state in states)

    def _can_go_on(self, states: Iterable[tuple[amqp.Bus, amqp.QueueState]]) -> bool:
        """Tell whether messages wait in a queue that is not refused."""
        return any(state.messages and (bus.name, state.name) not in self.refused for bus, state in states)

    def _read(self, end: float | None) -> None:
        """Read until queues look empty or the time is over; then commit and acknowledge what is in hand."""
        most = self._conf.notification.batch_size
        recording = RecordingThread(self._connection, self.metrics, most=most)
        shared_budget = budget(self._conf)
        pipelines, consumers = [], []
        for bus in self._buses:
            processor = message_processor(self._conf, self._converter)
            pipeline = bus_pipeline(self._conf, processor, bus, shared_budget, recording, self.metrics)
            consumer = amqp.AmqpConsumer(
                bus, self._topology, pipeline, looks_after=True, on_refusal=partial(self._note_refusal, bus)
            )
            pipeline.wake = consumer.wake
            pipelines.append(pipeline)
            consumers.append(consumer)
        writing = threads.call(recording.run, "draining")
        reading = [threads.call(consumer.run, "draining") for consumer in consumers]
        patience: float | None = _PATIENCE
        try:
            while (end is None or time.monotonic() < end) and not self._look_empty(
                pipelines, reading, writing
            ):
                time.sleep(_LOOK_INTERVAL)
            if end is None:
                patience = self._conf.graceful_shutdown_timeout or None
        finally:
            for consumer in consumers:
                consumer.stop()
            recording.hurry()
            if wait(reading, patience).not_done:
                recording.gave_up = (
                    True  # the database does not answer: what is in hand stays with the broker
                )
                wait(reading, _PATIENCE)
            recording.finish()
            wait([writing], _LOOK_INTERVAL if recording.gave_up else patience)
            self.in_hand = sum(pipeline.in_hand()["messages"] for pipeline in pipelines)

    def _look_empty(
        self, pipelines: Sequence[BusPipeline], reading: Sequence[Future[None]], writing: Future[None]
    ) -> bool:
        """Tell whether nothing is in hand and no message waits in a queue; raise what a thread raised."""
        for future in itertools.chain(reading, [writing]):
            if future.done():
                future.result()
        if any(pipeline.in_hand()["messages"] for pipeline in pipelines):
            return False
        return not self._can_go_on(self._states())

    def _note_refusal(self, bus: amqp.Bus, name: str, reason: str | None) -> None:
        if reason is None:
            self.refused.pop((bus.name, name), None)
        else:
            self.refused[bus.name, name] = reason
