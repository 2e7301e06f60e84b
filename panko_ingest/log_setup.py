"""The log, as the configuration says it is to be written."""

import configparser
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg
from oslo_log import log, rate_limit

from panko_ingest import __version__, config, foreign_text, option_lines
from panko_ingest.errors import ConfigError

_NOWHERE_ELSE = {
    "log_file": None,
    "log_dir": None,
    "log_config_append": None,
    "use_syslog": False,
    "use_journal": False,
    "use_stderr": True,
}


def set_up_logging(conf: cfg.ConfigOpts) -> None:
    """Write the log as the configuration says; as before where it can't be written so.

    :raises ConfigError: it can't.
    """
    foreign_text.guard_log()
    try:
        with _log_kept_on_failure():
            log.setup(conf, config.PROJECT, __version__)
    except log.LogConfigError as error:
        raise ConfigError(f"[DEFAULT] log_config_append: {_fault_of_log_file(error)}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ConfigError(f"[DEFAULT] log_file, log_dir, use_syslog: {where}{error.strerror}") from error
    except cfg.Error as error:
        raise ConfigError(f"[DEFAULT] log_*, use_*: {option_lines.told(error)}") from None
    except Exception as error:
        raise ConfigError(f"[DEFAULT] log_*, use_*: {type(error).__name__}") from error


def log_to_standard_error(conf: cfg.ConfigOpts) -> None:
    """Have a command tell trouble beside what it prints, and with ``[DEFAULT] debug`` all, nowhere else.

    A log file that a command of root's made would be root's, and the daemon could not write it.

    :raises ConfigError: as :func:`set_up_logging` does.
    """
    for name, value in _NOWHERE_ELSE.items():
        conf.set_override(name, value)
    try:
        set_up_logging(conf)
    finally:
        for name in _NOWHERE_ELSE:
            conf.clear_override(name)
    if not conf.debug:
        logging.getLogger().setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_no_interrupt)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    """Leave out that Ctrl-C met a pool of connections at work: who pressed it needs no traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))


@contextlib.contextmanager
def _log_kept_on_failure() -> Iterator[None]:
    # oslo.log takes the old handlers away before it opens the new ones.
    root = logging.getLogger()
    loggers = [one for one in (root, *root.manager.loggerDict.values()) if isinstance(one, logging.Logger)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    filters = root.filters[:]
    rate_limit.uninstall_filter()  # beside which oslo.log would not install another one
    limits: list[Any] = [one for one in filters if one not in root.filters]
    try:
        yield
    except BaseException:
        for logger, handlers, level, propagate in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        for limit in limits:
            level = logging.getLevelName(limit.except_level)
            rate_limit.install_filter(limit.burst, limit.interval, level)
        raise


def _fault_of_log_file(error: log.LogConfigError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, configparser.ParsingError | configparser.InterpolationError):
            # Its text quotes lines: the file may be any, if it was named by mistake.
            return f"{error.log_config} can't be read: {type(cause).__name__}"
        cause = cause.__context__
    return str(error)


def doubts(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield what is allowed of the log, and hardly what the operator wants."""
    to_file = (conf.log_file or conf.log_dir) and not conf.log_config_append
    if to_file and conf.log_rotation_type.lower() != "none":
        yield (
            "[DEFAULT] log_rotation_type: each process of the daemon rotates the file away from the others, "
            "and lines are lost: leave it out and use logrotate, without a signal, for log_file is watched"
        )
