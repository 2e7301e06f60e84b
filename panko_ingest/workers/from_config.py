"""What the configuration makes: buses, queues, and the parts that messages go through.

The same for the daemon and for commands.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from oslo_config import cfg

from panko_ingest import amqp, config, dead_letter
from panko_ingest.batch import Batcher
from panko_ingest.breaker import FloodBreaker
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.errors import BusUrlError, ConfigError, DatabaseUrlError
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

LOG = logging.getLogger(__name__)

# Of the broker's consumer_timeout, as messages are older there than here.
_HOLD_SHARE = 0.7


def buses(conf: cfg.ConfigOpts) -> list[amqp.Bus]:
    """Return the buses to read from.

    :raises ConfigError: a URL can't be used, names the bus of another one, or is of a transport that
        ``require_durable`` forbids.
    """
    rabbit = conf.oslo_messaging_rabbit
    tls = amqp.TlsSettings(
        rabbit.ssl_ca_file or None,
        rabbit.ssl_cert_file or None,
        rabbit.ssl_key_file or None,
        rabbit.ssl_enforce_hostname_verification,
        rabbit.ssl_strict_certificates,
    )
    found = []
    for option, url in config.bus_urls(conf):
        try:
            bus = amqp.parse(
                url,
                tls=tls if rabbit.ssl else None,
                trust=tls,
                login_method=rabbit.rabbit_login_method,
                heartbeat=rabbit.heartbeat_timeout_threshold,
            )
        except BusUrlError as error:
            raise BusUrlError(error.fault, option) from None
        _check_embedded(bus, option)
        found.append(bus)
    # Metrics, status and the page tell buses apart by their names.
    if twice := [name for name, count in Counter(bus.name for bus in found).items() if count > 1]:
        raise ConfigError(
            f"[notification] messaging_urls: {', '.join(twice)} is there more than once: write one line "
            "for it (more [notification] workers read it faster)"
        )
    for name in () if rabbit.ssl else ("ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
        if rabbit[name] and any(broker.tls is None for bus in found for broker in bus.brokers):
            raise ConfigError(
                f"[oslo_messaging_rabbit] {name}: is set, but ssl is not, so that the bus would not be "
                "encrypted: set ssl = true, or leave it out"
            )
    if conf.notification.require_durable:
        for bus in found:
            if bus.virtual_url is not None:
                raise ConfigError(
                    f"{bus.name} is an embedded transport, which loses messages when a process dies: use a "
                    "RabbitMQ, or unset [notification] require_durable"
                )
    return found


def _check_embedded(bus: amqp.Bus, option: str) -> None:
    scheme, _, database = (bus.virtual_url or "").partition("+")
    if database and ":" not in scheme:  # the path of another one may have a + in it
        # Commands that ask no database need not wait for SQLAlchemy to be loaded.
        from panko_ingest.storage.database.engine import check_driver  # noqa: PLC0415

        try:
            check_driver(database)
        except DatabaseUrlError as error:
            raise DatabaseUrlError(f"{scheme}+{error.fault}", option) from error


def warn_of_weaker_buses(sources: Sequence[amqp.Bus]) -> None:
    """Say which of the buses promise less than RabbitMQ does."""
    for bus in sources:
        if bus.weakness:
            LOG.warning("%s: %s", bus.name, bus.weakness)


def management_interfaces(conf: cfg.ConfigOpts, sources: Sequence[amqp.Bus]) -> list[amqp.Management | None]:
    """Return the management interface of each bus; None for one that has none, or that we are not told.

    :raises ConfigError: a URL can't be used, or there is not one for each bus.
    """
    urls = conf.notification.management_urls
    if not any(urls):
        return [None] * len(sources)
    if len(urls) != len(sources):
        raise ConfigError(
            f"[notification] management_urls: {len(urls)} for {len(sources)} buses: write one for each, in "
            "the order of messaging_urls"
        )
    return [
        None if bus.virtual_url else amqp.Management.parse(url, bus)
        for url, bus in zip(urls, sources, strict=True)
    ]


def topology(conf: cfg.ConfigOpts) -> amqp.Topology:
    """Return which queues to read from."""
    options = conf.notification
    return amqp.Topology(
        config.queue_names(conf.oslo_messaging_notifications.topics, options.priorities),
        exchanges=config.control_exchanges(conf),
        pool=options.pool,
        declare=options.declare,
        queue_type=options.queue_type,
        require_durable=options.require_durable,
        consumer_timeout=options.consumer_timeout,
        largest_body=max(options.max_message_size, dead_letter.MAX_BODY),
    )


def event_converter(
    conf: cfg.ConfigOpts, definitions: str | None = None, *, log: bool = True
) -> EventConverter:
    """Return the converter by the configured definitions, or by those of a file.

    :raises ConfigError: there is no such file, or the definitions are wrong.
    """
    return EventConverter.from_file(
        definitions or str(config.find_definitions(conf)),
        store_raw=config.raw_priorities(conf),
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
    recording: RecordingThread,
    metrics: Metrics,
    deaths: Callable[[], int] = lambda: 0,
    solitude: Solitude | None = None,
) -> BusPipeline:
    """Return the way of a bus's deliveries to the recording thread.

    :param deaths: returns how many workers of the host have died.
    :param solitude: that of the worker, which its buses share.
    """
    options = conf.notification
    return BusPipeline(
        processor,
        Batcher(options.batch_size, options.batch_timeout, options.max_bytes_in_flight // 2, time.monotonic),
        FlowControl(budget, time.monotonic, deaths),
        recording,
        FloodBreaker(options.dead_letter_limit, time.monotonic, options.dead_letter_hourly_bytes),
        metrics,
        hold_limit=options.consumer_timeout * _HOLD_SHARE,
        solitude=solitude,
        bus=bus.name,
    )
