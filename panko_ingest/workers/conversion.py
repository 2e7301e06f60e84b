"""What the configuration makes of messages: the same for the daemon and for commands."""

import time
from collections.abc import Callable

from oslo_config import cfg

from panko_ingest import amqp, config
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.metrics import Metrics
from panko_ingest.pipeline import (
    Budget,
    BusPipeline,
    FlowControl,
    MessageProcessor,
    PoisonGuard,
    RecordingThread,
)

# Of the broker's consumer_timeout, as messages are older there than here.
_HOLD_SHARE = 0.7


def event_converter(
    conf: cfg.ConfigOpts, definitions: str | None = None, *, log: bool = True
) -> EventConverter:
    """Return the converter by the configured definitions, or by those of a file.

    :raises ConfigError: there is no such file, or the definitions are wrong.
    """
    return EventConverter.from_file(
        definitions or config.find_definitions(conf),
        store_raw=conf.event.store_raw,
        drop_unmatched=conf.event.drop_unmatched_notifications,
        log=log,
    )


def message_processor(
    conf: cfg.ConfigOpts, converter: EventConverter, guard: PoisonGuard | None = None
) -> MessageProcessor:
    """Return what makes events of deliveries, within the configured bounds."""
    return MessageProcessor(
        converter,
        TypeFilter(conf.event.types),
        max_size=conf.notification.max_message_size,
        max_depth=conf.notification.max_depth,
        guard=guard,
    )


def budget(conf: cfg.ConfigOpts) -> Budget:
    """Return the bounds of what a process may have in hand."""
    options = conf.notification
    return Budget(options.prefetch_count or 2 * options.batch_size, options.max_bytes_in_flight)


def bus_pipeline(
    conf: cfg.ConfigOpts,
    processor: MessageProcessor,
    bus: amqp.Bus,
    budget: Budget,
    writer: RecordingThread,
    metrics: Metrics,
    deaths: Callable[[], int] = lambda: 0,
) -> BusPipeline:
    """Return the way of a bus's deliveries to the writer.

    :param deaths: returns how many workers of the host have died.
    """
    options = conf.notification
    return BusPipeline(
        processor,
        Batcher(options.batch_size, options.batch_timeout, options.max_bytes_in_flight // 2, time.monotonic),
        FlowControl(budget, time.monotonic, deaths),
        writer,
        FloodBreaker(options.dead_letter_limit, time.monotonic, options.dead_letter_hourly_bytes),
        metrics,
        hold_limit=options.consumer_timeout * _HOLD_SHARE,
        bus=bus.name,
    )
