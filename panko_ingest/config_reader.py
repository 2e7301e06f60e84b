"""How a command gets a configuration that is ready to use: read from its files, and checked."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log
from oslo_reports import opts as reports

from panko_ingest import __version__, config, log_setup, option_lines, standard_streams
from panko_ingest.errors import ConfigError

_OSLO_CONFIG_LOG = logging.getLogger(cfg.__name__)

_PRIORITIES = ("audit", "debug", "info", "warn", "error", "critical", "sample")
"""What oslo.messaging publishes by."""

_ACCOUNT = re.compile(r"://\S*@")


def prepare_service(argv: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Return a configuration that was parsed and checked, as :func:`read` does, and set up logging by it."""
    conf = read(argv)
    log_setup.set_up_logging(conf)
    return conf


def read(
    argv: Sequence[str] | None = None,
    cli_opts: Sequence[cfg.Opt] = (),
    conf: cfg.ConfigOpts | None = None,
) -> cfg.ConfigOpts:
    """Return a configuration that was parsed and checked.

    :param argv: arguments without the program's name; the process' own by default.
    :param cli_opts: options of the command line to accept, such as a command's subcommands.
    :param conf: one to use that has more options of its own; a new one by default.
    :raises ConfigError: a value is refused; the text names its file, line and option.
    """
    conf = cfg.ConfigOpts() if conf is None else conf
    config.register_opts(conf)
    log.register_options(conf)
    reports.set_defaults(conf)
    config.set_defaults()
    conf.register_cli_opts(cli_opts)
    arguments = option_lines.spelled_out(sys.argv[1:] if argv is None else argv)
    files, folders = _usual_places(any_is_named=any(word.startswith("--config-") for word in arguments))
    option_lines.check(option_lines.named(arguments, files, folders), config.known_options())
    with _refused_without_values():
        conf(
            arguments,
            project=config.PROJECT,
            version=__version__,
            default_config_files=files,
            default_config_dirs=folders,
        )
    _split_what_the_environment_holds(conf)
    _check(conf)
    return conf


def _usual_places(*, any_is_named: bool) -> tuple[list[str], list[str]]:
    """Return the files and the folders that are read where a command names none.

    The folder for credentials is left out for who may not read it: the unit hands the daemon a copy.

    :param any_is_named: whether the command line names one, so that what is closed to us need not be read.
    :raises ConfigError: the daemon's configuration is closed to us; to go on without would be to guess.
    """
    # The program's name is the project's, so that oslo.config finds everything twice.
    files = dict.fromkeys(cfg.find_config_files(config.PROJECT))
    folders = dict.fromkeys(cfg.find_config_dirs(config.PROJECT))
    for path in [config.FOLDER, *map(Path, folders)]:
        if path.exists() and not _may_look_into(path) and not any_is_named:
            raise ConfigError(
                f"{path}: Permission denied: run it as root or as the daemon's user, or name what to read by "
                "--config-file"
            )
    credentials = cfg.find_config_dirs(config.PROJECT, extension=config.CREDENTIALS_FOLDER)
    folders |= dict.fromkeys(path for path in credentials if _may_look_into(Path(path)))
    return list(files), [path for path in folders if _may_look_into(Path(path))]


def _may_look_into(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def closed_credentials() -> list[str]:
    """Return the folders for credentials that this user may not read, so that a command goes without."""
    found = cfg.find_config_dirs(config.PROJECT, extension=config.CREDENTIALS_FOLDER)
    return [path for path in dict.fromkeys(found) if not _may_look_into(Path(path))]


@contextlib.contextmanager
def _refused_without_values() -> Iterator[None]:
    """Turn what oslo.config says of a configuration that it can't use into an error that quotes no value."""
    said = io.StringIO()
    shown = True
    _OSLO_CONFIG_LOG.addFilter(_refuse_unread_source)
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        if error.code not in {1, None}:  # older releases of oslo.config name no code
            raise
        # It has written which option of the command line, and its value, which may come from a file.
        shown = False
        names = re.findall(r"^argument --([\w-]+): Invalid ", said.getvalue(), re.MULTILINE)
        at_fault = [f"[DEFAULT] {name}: can't be used" for name in names]
        raise ConfigError("\n".join(at_fault) or "the value of an option can't be used") from None
    except cfg.Error as error:
        raise ConfigError(option_lines.told(error)) from None
    except RecursionError:
        raise ConfigError("options stand for one another without end: write $$ for a $") from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    finally:
        _OSLO_CONFIG_LOG.removeFilter(_refuse_unread_source)
        if shown:
            # argparse repeats words that it does not know, of which one may be a URL.
            standard_streams.tell(_ACCOUNT.sub("://***@", said.getvalue()))


def _refuse_unread_source(record: logging.LogRecord) -> bool:
    # It would go on without what the source holds, after a line that may quote it.
    if str(record.msg).startswith("could not load configuration from"):
        raise ConfigError("[DEFAULT] config_source: what it names can't be read")
    return True


def _split_what_the_environment_holds(conf: cfg.ConfigOpts) -> None:
    """Have options of several values from the environment mean what they do in a file: one a line.

    oslo.config would take every character for a value.
    """
    for group, option in _options_of(conf):
        of_group = None if group == "DEFAULT" else group
        if not option.multi:
            continue
        with contextlib.suppress(cfg.Error, ValueError, RecursionError):  # which are told when it is read
            place = conf.get_location(option.dest, of_group)
            if place is not None and place.location is cfg.Locations.environment:
                lines = map(str.strip, os.environ[place.detail].splitlines())
                conf.set_override(option.dest, list(filter(None, lines)), of_group)


def _options_of(conf: cfg.ConfigOpts) -> Iterator[tuple[str, cfg.Opt]]:
    """Yield every option that is read from files, behind its group."""
    for group, options in config.known_options().items():
        values = conf if group == "DEFAULT" else conf[group]
        yield from ((group, option) for option in options if option.dest in values)


def _check(conf: cfg.ConfigOpts) -> None:
    """Read every option once, and check those that depend on one another.

    :raises ConfigError: naming each option at fault.
    """
    # Only what can be read can be compared.
    faults = list(_unreadable(conf)) or [*_senseless(conf), *_names_too_long(conf)]
    if faults:
        raise ConfigError("\n".join(faults))


def _unreadable(conf: cfg.ConfigOpts) -> Iterator[str]:
    is_read = True
    for group, option in _options_of(conf):
        try:
            value = getattr(conf if group == "DEFAULT" else conf[group], option.dest)
            option_lines.refuse_blank(option, value)
        except (cfg.Error, ValueError, RecursionError) as error:
            is_read = False
            yield f"{_variable(group, option)}[{group}] {option.name}: {option_lines.reason(option, error)}"
    if is_read and not all(map(_is_log_level, conf.default_log_levels)):
        yield "[DEFAULT] default_log_levels: is no list of logger=LEVEL, such as amqp=WARNING"


def _variable(group: str, option: cfg.Opt) -> str:
    """Return what tells that the environment holds an option, which comes before every file."""
    variable = f"OS_{group}__{option.dest}".upper()
    return f"environment variable {variable}: " if variable in os.environ else ""


def _senseless(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield what would read, store or bind nothing."""
    prefetch, batch_size = conf.notification.prefetch_count, conf.notification.batch_size
    if 0 < prefetch < batch_size:
        yield (
            f"[notification] prefetch_count: {prefetch} is less than batch_size ({batch_size}): "
            "no batch could ever fill. Set 0, or at least batch_size"
        )
    for group, name, done in (
        ("notification", "priorities", "read"),
        ("oslo_messaging_notifications", "topics", "read"),
        ("event", "types", "stored"),
    ):
        if not conf[group][name]:
            yield f"[{group}] {name}: is empty: nothing would be {done}"
    if "!*" in conf.event.types:
        yield "[event] types: !* leaves out all: nothing would be stored"
    for name in config.raw_priorities(conf):
        if name.lower() not in _PRIORITIES:
            yield f"[event] store_raw: there is no priority {name}, but {', '.join(_PRIORITIES)}"
    exchanges = config.control_exchanges(conf)
    if not all(map(config.is_name, exchanges)):
        yield (
            "[notification] notification_control_exchanges: is no list of names: write them with commas "
            "between them, or one a line, and nothing else"
        )
    if conf.notification.pool and not exchanges:
        yield "[notification] notification_control_exchanges: is empty: nothing would be bound to the pool"


def _is_log_level(pair: str) -> bool:
    _, _, level = pair.partition("=")
    return level in logging.getLevelNamesMapping() or level.isdecimal()


def _names_too_long(conf: cfg.ConfigOpts) -> Iterator[str]:
    options = conf.notification
    queues = config.queue_names(conf.oslo_messaging_notifications.topics, options.priorities)
    for option, names in (
        ("[oslo_messaging_notifications] topics", queues),
        ("[notification] pool", [options.pool or ""]),
        ("[notification] notification_control_exchanges", config.control_exchanges(conf)),
    ):
        longest = max((len(name.encode()) for name in names), default=0)
        if longest > config.MAX_NAME:
            yield f"{option}: a name of {longest} bytes, of which AMQP takes {config.MAX_NAME}"
