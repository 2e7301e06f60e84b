"""``panko-ingest``: finds the command and runs it."""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from panko_ingest import config_reader, log_setup, standard_streams
from panko_ingest.errors import BrokerError, ConfigError
from panko_ingest.foreign_text import escape_what_it_lacks, escaped_error
from panko_ingest.storage.errors import InvalidRequest, StorageUnavailable

_OUTPUT_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
# For want of these a file can't be opened, though the configuration is good, until the host has them again.
_MAY_PASS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}

EXIT_OK, EXIT_FINDINGS, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3
EXIT_INTERRUPTED = 130

# A command's module offers add_parser(subparsers), which sets ``run``: a function of the configuration that
# returns the exit code; an error that it raises ends it with another, and is told in a line.
# It sets ``goes_on`` where the command, when it was interrupted and is run again, does the rest.
COMMANDS = {
    "serve": "panko_ingest.cli.serve",
    "db": "panko_ingest.cli.db",
    "check": "panko_ingest.cli.check",
    "status": "panko_ingest.cli.status",
    "expire": "panko_ingest.cli.expire",
    "events": "panko_ingest.cli.events",
    "dead-letters": "panko_ingest.cli.dead_letters",
    "convert": "panko_ingest.cli.convert",
    "publish": "panko_ingest.cli.publish",
    "tap": "panko_ingest.cli.tap",
    "drain": "panko_ingest.cli.drain",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    conf: cfg.ConfigOpts | None = None
    _open_what_is_closed()
    escape_what_it_lacks(sys.stdout)
    try:
        conf = read(arguments)
        if conf.command.name == "serve":
            log_setup.set_up_logging(conf)
        else:
            log_setup.log_to_standard_error(conf)
        code = _run(conf)
    except KeyboardInterrupt:
        # Python remembers one that came amid code out of a text (SQLAlchemy generates some), and `python -m`
        # dies of it at its end, whatever is returned here, unless it has run another such text.
        exec("")  # noqa: S102
        if conf is not None and getattr(conf.command, "goes_on", False):
            fail("interrupted: what is done stays, and the same command does the rest", EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        standard_streams.forget(sys.stdout)  # its reader has seen enough
        return EXIT_OK
    except Exception as error:
        if (text_and_code := _told(error, conf)) is None:
            raise
        return fail(*text_and_code)
    return code


def _run(conf: cfg.ConfigOpts) -> int:
    command = conf.command
    if command.name != "serve" and not getattr(command, "reader_may_leave", False):
        with contextlib.redirect_stdout(_ToTheEnd(sys.stdout)):
            code = int(command.run(conf))
            sys.stdout.flush()
        return code
    code = int(command.run(conf))
    sys.stdout.flush()
    return code


class _ToTheEnd:
    """Standard output of a command whose work and exit code matter, also if nobody reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            standard_streams.forget(sys.stdout)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            standard_streams.forget(sys.stdout)


def _told(error: Exception, conf: cfg.ConfigOpts | None) -> tuple[str, int] | None:
    """Return what to say of an error that ends a command, and the exit code; None for a traceback."""
    if isinstance(error, ConfigError | InvalidRequest):
        return str(error), EXIT_UNREACHABLE if _may_pass(error) else EXIT_USAGE
    if isinstance(error, StorageUnavailable | BrokerError):
        return str(error), EXIT_UNREACHABLE
    if isinstance(error, OSError) and error.errno in _OUTPUT_IS_FULL:
        standard_streams.forget(sys.stdout)
        return f"what is printed can't be written: {error.strerror}", EXIT_UNREACHABLE
    if conf is None or conf.command.name == "serve":  # whose log shows where
        return None
    from panko_ingest.cli import failures  # noqa: PLC0415 - `serve` has no use for it

    text, unreachable = failures.told(error)
    return f"{conf.command.name}: {text}", EXIT_UNREACHABLE if unreachable else EXIT_FINDINGS


def _may_pass(error: BaseException | None) -> bool:
    """Return whether what led to an error may be over without an edit: of exit code 2 nobody tries again."""
    while error is not None:
        # TLS has numbers of its own, with texts of its own.
        if (
            isinstance(error, OSError)
            and error.errno in _MAY_PASS
            and error.strerror == os.strerror(error.errno)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def read(arguments: Sequence[str]) -> cfg.ConfigOpts:
    """Return the configuration for a command line, the command's own arguments in ``conf.command``.

    :raises ConfigError: a value is refused.
    """
    return config_reader.read(arguments, cli_opts=[_command_option(arguments)])


def _command_option(arguments: Sequence[str]) -> cfg.SubCommandOpt:
    # A command that is named is the only one imported: `serve` has no use for what others need.
    named = [name for name in COMMANDS if name in arguments]

    def add_parsers(subparsers: Any) -> None:
        for name in named or COMMANDS:
            importlib.import_module(COMMANDS[name]).add_parser(subparsers)
        _show_files(subparsers)

    return cfg.SubCommandOpt("command", title="commands", handler=add_parsers)


def _show_files(subparsers: Any) -> None:
    """Have each command's help name the options by which configurations are read, wherever these stand."""
    for parser in subparsers.choices.values():
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if below:
            _show_files(below[0])
            continue
        for kind, metavar in (("file", "FILE"), ("dir", "DIRECTORY")):
            parser.add_argument(
                f"--config-{kind}",
                metavar=metavar,
                default=argparse.SUPPRESS,
                help=f"read this {metavar.lower()} of the configuration, not the usual ones; repeatable",
            )


def _open_what_is_closed() -> None:
    """Lead closed standard streams nowhere, so that no file or socket takes their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(nowhere := os.open(os.devnull, os.O_RDWR), number)
            if nowhere > number:
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def fail(error: object, code: int) -> int:
    """Say on standard error why a command ends; return its exit code."""
    standard_streams.tell(f"panko-ingest: {escaped_error(error)}\n")
    return code
