"""The configuration in force, with all that is made from it once; every worker is born with it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oslo_config import cfg

from panko_ingest import amqp, config, ineffective_options, log_setup, resources
from panko_ingest.converter import EventConverter
from panko_ingest.errors import ConfigError
from panko_ingest.shared_state import check_size
from panko_ingest.storage import get_connection_from_config
from panko_ingest.workers import from_config

LOG = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What a worker inherits, so that it reads no file again that may have changed meanwhile."""

    conf: cfg.ConfigOpts
    buses: list[amqp.Bus]
    """Those that are to be read; none where only the expirer runs."""
    definitions: Path
    """Where the converter's event definitions stand."""
    converter: EventConverter
    ineffective: list[ineffective_options.IneffectiveOption]
    """What stood in the files and has no effect, when they were read."""

    @property
    def workers(self) -> int:
        """How many ingest workers there are to be."""
        return int(self.conf.notification.workers) if self.buses else 0


class LiveConfig:
    """Holds the settings in the master; a worker gets those that are in force when it is forked.

    :param conf: the first configuration; logging is set up by it already.
    :param read: reads the configuration anew, from where the first one came.
    :param set_up_logging: changes nothing where it raises an error.
    :raises ConfigError: the configuration can't be used.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        read: Callable[[], cfg.ConfigOpts],
        set_up_logging: Callable[[cfg.ConfigOpts], None],
    ) -> None:
        self.settings = validate(conf)
        self.version = 0
        """Counts the configurations that came into force."""
        self._read = read
        self._set_up_logging = set_up_logging

    def reload(self) -> bool:
        """Read the configuration again; return whether it is good, and so in force.

        A bad one changes nothing and is logged.
        """
        refusal: object = None
        try:
            settings = validate(self._read())
            _refuse_lost_definitions(self.settings.definitions, settings.definitions)
            self._set_up_logging(settings.conf)
        except ConfigError as error:
            refusal = error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a library's, on what the operator wrote
            refusal = f"{type(error).__name__} while it was read"
        if refusal is not None:  # outside of the clause, where oslo.log would add its text once more
            LOG.error("The new configuration is refused, the old one stays in force: %s", refusal)
            return False
        self.settings = settings
        self.version += 1
        tell(settings)
        LOG.info("The configuration was read again; the workers start anew with it, in turns")
        return True


def validate(conf: cfg.ConfigOpts) -> Settings:
    """Build once what the workers will build, so that a mistake shows before anything starts.

    :raises ConfigError: naming what is wrong.
    """
    ineffective = ineffective_options.find(conf)  # first: the files may change meanwhile
    buses = [] if conf.command.only == "expirer" else from_config.buses(conf)
    check_size(conf.notification.workers, len(buses))
    for tls in {broker.tls for bus in buses for broker in bus.brokers if broker.tls}:
        tls.check()
    for expires in (False, True):
        get_connection_from_config(conf, expires=expires).close()
    definitions = config.find_definitions(conf)
    converter = from_config.event_converter(conf, str(definitions))
    return Settings(conf, buses, definitions, converter, ineffective)


def _refuse_lost_definitions(old: Path, new: Path) -> None:
    """Refuse to go on by the definitions that ship where those of the operator are away.

    :raises ConfigError: they are: by what ships, traits would be missing of all events from now on.
    """
    shipped = resources.path("etc")
    if new.is_relative_to(shipped) and not old.is_relative_to(shipped) and not old.exists():
        raise ConfigError(f"[event] definitions_cfg_file: {old} is not there any more")


def tell(settings: Settings) -> None:
    """Log what events are made by, and what is allowed and hardly what the operator wants.

    No file is read for it, which may be gone.
    """
    LOG.info("Events are made by %s", settings.definitions)
    ineffective_options.warn(settings.ineffective)
    for doubt in log_setup.doubts(settings.conf):
        LOG.warning(doubt)
    from_config.warn_of_weaker_buses(settings.buses)
