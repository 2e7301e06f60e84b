"""Running the checks that a configuration calls for."""

from collections.abc import Callable, Iterable, Iterator

from oslo_config import cfg

from panko_ingest import checks, config, unread_options
from panko_ingest.cli import monitor
from panko_ingest.errors import ConfigError
from panko_ingest.findings import FAILURE, Finding
from panko_ingest.storage import get_connection
from panko_ingest.workers.sources import buses, management_interfaces, topology

Check = Callable[[cfg.ConfigOpts], Iterator[Finding]]


def run(conf: cfg.ConfigOpts, wanted: Iterable[Check]) -> Iterator[Finding]:
    """Yield what the checks find; one that can't begin because of the configuration is a finding too."""
    for check in wanted:
        try:
            yield from check(conf)
        except ConfigError as error:
            yield Finding(FAILURE, check.__name__.replace("_", " "), str(error))


def configuration(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Check the configuration files."""
    yield from checks.configuration(list(unread_options.files(conf)), unread_options.find(conf))


def definitions(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Check the event definitions."""
    yield from checks.definitions(
        config.find_definitions(conf), drop_unmatched=conf.event.drop_unmatched_notifications
    )


def workers(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Check the settings of workers and batches."""
    options = conf.notification
    yield from checks.workers(options.workers, buses=buses(conf))
    yield from checks.holding(batch_timeout=options.batch_timeout, consumer_timeout=options.consumer_timeout)


def broker(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Check the brokers and their queues."""
    figures = monitor.figures(conf)
    sources = buses(conf)
    for bus, management in zip(sources, management_interfaces(conf, sources), strict=True):
        yield from checks.bus(
            bus,
            topology(conf),
            ours=figures["readers_consuming"] // len(sources) if figures else None,
            management=management,
            consumer_timeout=conf.notification.consumer_timeout,
        )


def database(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Check the event database, by the account of the ingest workers and by that of the expirer."""
    url, expirer_url = config.database_url(conf), config.expirer_database_url(conf)
    expires = conf.database.event_time_to_live > 0 or conf.expirer.dead_letter_time_to_live > 0
    alone = url == expirer_url
    connection = get_connection(url, conf)
    yield from checks.database(connection, to_expire=expires and alone)
    connection.close()
    if expires and not alone:
        connection = get_connection(expirer_url, conf)
        yield from checks.expirer_role(connection)
        connection.close()
