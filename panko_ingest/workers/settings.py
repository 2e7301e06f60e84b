"""The configuration in force, which every new worker is born with."""

import logging
from collections.abc import Callable

from oslo_config import cfg

from panko_ingest import config, unread_options
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.errors import ConfigError
from panko_ingest.progress import check_size
from panko_ingest.storage import get_connection_from_config
from panko_ingest.workers import sources

LOG = logging.getLogger(__name__)


class Settings:
    """Holds the configuration in the master; a worker reads it when it is forked.

    :param prepare: reads the configuration anew, from where the first one came.
    """

    def __init__(self, conf: cfg.ConfigOpts, prepare: Callable[[], cfg.ConfigOpts]) -> None:
        self.conf = conf
        self._prepare = prepare

    def reload(self) -> bool:
        """Read the configuration again; return whether it is good, and so in force.

        A bad one changes nothing and is logged.
        """
        try:
            conf = self._prepare()
            validate(conf)
        except ConfigError as error:
            LOG.error("The new configuration is refused, the old one stays in force: %s", error)
            return False
        except Exception:
            LOG.exception("The new configuration can't be read, the old one stays in force")
            return False
        unread_options.warn(conf)
        sources.warn(conf)
        self.conf = conf
        LOG.info("The configuration was read again; the workers start anew with it")
        return True


def validate(conf: cfg.ConfigOpts) -> None:
    """Build once what the workers will build, so that a mistake shows before anything starts.

    :raises ConfigError: naming what is wrong.
    """
    check_size(conf.notification.workers, len(sources.buses(conf)))
    get_connection_from_config(conf)
    TypeFilter(conf.event.types)
    EventConverter.from_file(
        config.find_definitions(conf),
        store_raw=conf.event.store_raw,
        drop_unmatched=conf.event.drop_unmatched_notifications,
    )
