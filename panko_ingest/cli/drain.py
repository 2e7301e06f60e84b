"""``panko-ingest drain``: reads until the queues are empty."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from oslo_config import cfg

from panko_ingest import amqp, storage, threads
from panko_ingest.cli import arguments, output
from panko_ingest.deadline import Asked
from panko_ingest.errors import BrokerError, ConfigError
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

_SELDOM = {
    "events_duplicate": "stored already",
    "dead_letters": "dead letters",
    "messages_dropped": "dropped by configuration",
}
_LOOK_INTERVAL = 0.5
_PATIENCE = 3.0
# For each broker of a bus, as it may be away, and for each queue, as it may hang.
_LOOK_PATIENCE = 30.0


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "drain",
        help="read until the queues are empty",
        description="Store what waits in the queues as the daemon does, beside it or without it, until "
        "they are empty and all is committed. Exit code 0: they are; 1: messages are left, a queue can't be "
        "read, or none of the queues of a bus is there; 3: a bus or the database is away.",
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
        drain.run(conf.command.timeout)
    output.write(", ".join(_counted(drain.metrics)))
    for (where, name), reason in drain.refused.items():
        output.tell(f"{name}: is not read at {where}: {reason}")
    states = drain.states.values()
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
    if drain.away:
        raise BrokerError(f"{'; '.join(drain.away)}: what waits there is not known")
    is_left = drain.without_queues or drain.in_hand or drain.refused
    return int(bool(is_left) or any(state.messages for state in states))


def _counted(metrics: Metrics) -> Iterator[str]:
    """Yield what became of the messages; what happens seldom only where it did."""
    counts: Counter[str] = Counter()
    for sample in (sample for metric in metrics.registry.collect() for sample in metric.samples):
        counts[sample.name] += int(sample.value)
    yield f"{counts['panko_ingest_messages_received_total']} messages read"
    yield f"{counts['panko_ingest_events_recorded_total']} events stored"
    for name, words in _SELDOM.items():
        if count := counts[f"panko_ingest_{name}_total"]:
            yield f"{count} {words}"


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
        self.states: dict[tuple[str, str], amqp.QueueState] = {}
        """What was told of each queue, by bus and queue: those of most buses have the same names."""
        self.without_queues: list[amqp.Bus] = []
        """Buses that had none of the queues when they were looked at last."""
        self.away: list[str] = []
        """Buses that could not be looked at last, each with the reason."""
        self.in_hand = 0
        """Messages that were given up in hand, and go back to their queues when the process ends."""
        self._seen_refused: dict[tuple[str, str], str] = {}
        self._read_refused: dict[tuple[str, str], str] = {}

    @property
    def refused(self) -> dict[tuple[str, str], str]:
        """Why a broker does not let us read a queue that is there, by bus and queue."""
        return {**self._seen_refused, **self._read_refused}

    def run(self, timeout: float | None) -> None:
        """Read until the queues are empty, for so many seconds at most.

        :raises BrokerError: all buses are away from the beginning.
        """
        end = time.monotonic() + timeout if timeout is not None else None
        self._look()
        if len(self.away) == len(self._buses):
            raise BrokerError("; ".join(self.away))
        while True:
            self._read(end)
            # Messages that were on their way to us when we stopped are back in their queues by now.
            self._look(closely=True)
            is_over = self.in_hand or (end is not None and time.monotonic() >= end)
            if is_over or not self._is_left():
                return

    def _look(self, *, closely: bool = False) -> None:
        """Ask all buses at once what waits in their queues, as one that is away may take its time.

        :param closely: make sure that those are empty of which the broker says so.
        """
        asked = [
            Asked(
                f"broker {bus.name}",
                partial(_answers, bus, self.queues, closely=closely),
                _LOOK_PATIENCE * (len(bus.brokers) + len(self.queues)),
            )
            for bus in self._buses
        ]
        self.states, self._seen_refused, self.without_queues, self.away = {}, {}, [], []
        for bus, question in zip(self._buses, asked, strict=True):
            answers = question.answer()
            if answers is None:
                self.away.append(question.error)
            elif not answers:
                self.without_queues.append(bus)
            for name, answer in (answers or {}).items():
                if isinstance(answer, amqp.QueueState):
                    self.states[bus.name, name] = answer
                else:
                    self._seen_refused[bus.name, name] = answer

    def _is_left(self, *, reading: bool = False) -> bool:
        """Tell whether messages wait in a queue that is not refused.

        :param reading: whether consumers of ours run, so that one without any is not read yet, or has nobody
            who can tell what waits in it.
        """
        refused = self.refused
        return any(
            state.messages or (reading and state.may_be_unknown)
            for key, state in self.states.items()
            if key not in refused
        )

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
                # The database does not answer: what is in hand stays with the broker.
                recording.gave_up = True
                wait(reading, _PATIENCE)
            recording.finish()
            wait([writing], _LOOK_INTERVAL if recording.gave_up else patience)
            self.in_hand = sum(pipeline.in_hand()["messages"] for pipeline in pipelines)

    def _look_empty(
        self, pipelines: Sequence[BusPipeline], reading: Sequence[Future[None]], writing: Future[None]
    ) -> bool:
        """Tell whether no message waits in a queue and nothing is in hand; raise what a thread raised."""
        for future in itertools.chain(reading, [writing]):
            if future.done():
                future.result()
        if any(pipeline.in_hand()["messages"] for pipeline in pipelines):
            return False
        self._look()
        return not self._is_left(reading=True)

    def _note_refusal(self, bus: amqp.Bus, name: str, reason: str | None) -> None:
        if reason is None:
            self._read_refused.pop((bus.name, name), None)
        else:
            self._read_refused[bus.name, name] = reason


def _answers(bus: amqp.Bus, names: Sequence[str], *, closely: bool) -> dict[str, amqp.QueueState | str]:
    answers = amqp.queue_answers(bus, names)
    if not closely:
        return answers
    unknown = [
        name
        for name, answer in answers.items()
        if isinstance(answer, amqp.QueueState) and answer.may_be_unknown
    ]
    return {**answers, **amqp.refused(bus, unknown)}
