"""The log, as the configuration says it is to be written."""

import configparser
import contextlib
import logging
import logging.config
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_log import log, rate_limit

from panko_ingest import __version__, config, guarded_log, option_lines
from panko_ingest.errors import ConfigError

_OF_FILES = ("log_file", "log_dir")
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
    guarded_log.guard_log()
    _set_up(conf, keep=False)


def check(conf: cfg.ConfigOpts) -> None:
    """Find out whether a log can be written so, except to its file, which is not opened; write no line of it.

    :raises ConfigError: it can't.
    """
    if conf.log_config_append:
        with _told_by_option(conf), _log_kept(always=True):
            _load_without_handlers(conf.log_config_append)
        return
    for name in _OF_FILES:
        conf.set_override(name, None)
    try:
        _set_up(conf, keep=True)
    finally:
        for name in _OF_FILES:
            conf.clear_override(name)


def _set_up(conf: cfg.ConfigOpts, *, keep: bool) -> None:
    with _told_by_option(conf), _log_kept(always=keep):
        log.setup(conf, config.PROJECT, __version__)
        _write_no_line(conf)


@contextlib.contextmanager
def _told_by_option(conf: cfg.ConfigOpts) -> Iterator[None]:
    """Turn what is raised of a log that can't be set up into an error that names the option at fault."""
    try:
        yield
    except ConfigError:
        raise
    except log.LogConfigError as error:
        raise ConfigError(f"[DEFAULT] log_config_append: {_fault_of_log_file(error)}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ConfigError(f"[DEFAULT] log_file, log_dir, use_syslog: {where}{error.strerror}") from error
    except cfg.Error as error:
        raise ConfigError(f"[DEFAULT] log_*, use_*: {option_lines.told(error)}") from None
    except Exception as error:
        raise ConfigError(f"[DEFAULT] {_at_fault(conf, error)}") from error


def _load_without_handlers(path: str) -> None:
    """Set up the log by a file as oslo.log does, with handlers that open nothing in the place of its own.

    :raises LogConfigError: the file can't be read, or lacks what it refers to.
    """
    parser = configparser.ConfigParser()
    try:
        parser.read_string(Path(path).read_text())
        names = parser.get("handlers", "keys").split(",")
        for handler in [parser[f"handler_{name.strip()}"] for name in names if name.strip()]:
            _class_of(handler["class"])
            for option, default in (("args", "()"), ("kwargs", "{}")):
                compile(handler.get(option, default), path, "eval")
            handler.update({"class": "NullHandler", "args": "()", "kwargs": "{}"})
        logging.config.fileConfig(parser, disable_existing_loggers=False)
    except (configparser.Error, KeyError, OSError, RuntimeError) as error:
        raise log.LogConfigError(path, str(error)) from error


def _class_of(name: str) -> object:
    """Return a class by the name that it has in such a file: within ``logging``, or in full."""
    try:
        return pkgutil.resolve_name(f"logging.{name}")
    except (AttributeError, ImportError):
        return pkgutil.resolve_name(name)


def _at_fault(conf: cfg.ConfigOpts, error: Exception) -> str:
    """Return which option oslo.log stumbles over, and why, without its value."""
    if conf.log_config_append:
        return f"log_config_append: what {conf.log_config_append} names can't be used: {type(error).__name__}"
    if isinstance(error, TypeError) and (conf.use_syslog or conf.use_journal):
        return "syslog_log_facility: there is no facility of that name"
    if isinstance(error, RuntimeError) and conf.use_journal:
        return "use_journal: Python's module systemd is missing; under systemd it is not needed"
    return f"log_*, use_*: {type(error).__name__}"


_LINES = (
    ("logging_default_format_string", logging.INFO),
    ("logging_debug_format_suffix", logging.DEBUG),
    ("logging_exception_prefix", logging.ERROR),
)


def _write_no_line(conf: cfg.ConfigOpts) -> None:
    """Make lines of each kind, and write none: of a format that is wrong each would be a traceback.

    :raises ConfigError: one can't be made.
    """
    if conf.log_config_append:  # whose handlers may add what their formats ask for
        return
    logger = logging.getLogger(config.PROJECT)
    for option, level in _LINES:
        shown = (ValueError, ValueError(), None) if level == logging.ERROR else None
        for handler in logging.getLogger().handlers:
            record = logger.makeRecord(config.PROJECT, level, __file__, 0, "a line of %s", ("none",), shown)
            try:
                handler.format(record)
            except Exception as error:
                raise ConfigError(
                    f"[DEFAULT] {option}: no line of the log can be written by it: {type(error).__name__}"
                ) from error


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
def _log_kept(*, always: bool) -> Iterator[None]:
    """Have the log as it was after a failure, or after anything."""
    # oslo.log takes the old handlers away before it opens the new ones.
    root = logging.getLogger()
    loggers = _loggers()
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    filters = root.filters[:]
    rate_limit.uninstall_filter()  # beside which oslo.log would not install another one
    limits: list[Any] = [one for one in filters if one not in root.filters]
    restore = True
    try:
        yield
        restore = always
    finally:
        if restore:
            made = [one for one in _loggers() if one not in loggers]
            for logger in made:
                logger.handlers[:] = []
                logger.setLevel(logging.NOTSET)
                logger.propagate = True
            for logger, handlers, level, propagate in before:
                logger.handlers[:] = handlers
                logger.setLevel(level)
                logger.propagate = propagate
            rate_limit.uninstall_filter()
            for limit in limits:
                level = logging.getLevelName(limit.except_level)
                rate_limit.install_filter(limit.burst, limit.interval, level)


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [one for one in (root, *root.manager.loggerDict.values()) if isinstance(one, logging.Logger)]


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
