"""The log of a command: beside what it prints, wherever the configuration has the daemon's written."""

import logging

from oslo_config import cfg

from panko_ingest import config

_OF_THE_DAEMON = {
    "log_file": None,
    "log_dir": None,
    "log_config_append": None,
    "use_syslog": False,
    "use_journal": False,
    "use_stderr": True,
}


def set_up(conf: cfg.ConfigOpts) -> None:
    """Have trouble told on standard error; all of it with ``[DEFAULT] debug``.

    A file that a command of root's made would be root's, and the daemon could not write its log.
    """
    for name, value in _OF_THE_DAEMON.items():
        conf.set_override(name, value)
    try:
        config.set_up_logging(conf)
    finally:
        for name in _OF_THE_DAEMON:
            conf.clear_override(name)
    if not conf.debug:
        logging.getLogger().setLevel(logging.WARNING)
