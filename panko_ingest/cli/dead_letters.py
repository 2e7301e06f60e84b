"""``panko-ingest dead-letters``: what could not become an event, and why."""

import argparse
import contextlib
import datetime
import sys
from typing import Any

from oslo_config import cfg

from panko_ingest import storage
from panko_ingest.cli import output, times
from panko_ingest.cli.dead_letter_replay import Replay
from panko_ingest.errors import ConfigError
from panko_ingest.storage.models import DeadLetterSummary, StoredDeadLetter

STAGES = ("decode", "convert", "record", "crash")
_COLUMNS = ("id", "last_at", "attempts", "stage", "error", "event_type", "message_id", "queue", "size")


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("dead-letters", help="look at the messages that could not become events")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser("list", help="list them, the one seen last first")
    add_filters(action)
    action.add_argument(
        "--limit", type=int, default=100, metavar="N", help="at most N; 0: all (default: 100)"
    )
    action.add_argument("--format", choices=("table", "json", "csv"), default="table")
    action.set_defaults(run=list_letters)
    action = actions.add_parser("show", help="show one in full")
    action.add_argument("id", type=int, metavar="ID")
    action.add_argument("--body", action="store_true", help="write the delivered bytes, and nothing else")
    action.set_defaults(run=show)
    action = actions.add_parser(
        "replay",
        help="convert them again, with the configuration of now",
        description="Decode and convert the delivered bytes again. What becomes an event is stored, and its "
        "dead letter deleted in the same transaction; what does not stays and is listed with its "
        "reason. Exit code 1: some stayed.",
    )
    add_filters(action)
    action.add_argument("--all", action="store_true", help="replay all of them")
    action.add_argument("--dry-run", action="store_true", help="only convert them")
    action.set_defaults(run=replay)
    action = actions.add_parser("purge", help="delete them")
    add_filters(action)
    action.add_argument("--all", action="store_true", help="delete all of them")
    action.add_argument("--dry-run", action="store_true", help="only count them")
    action.set_defaults(run=purge)


def add_filters(action: argparse.ArgumentParser) -> None:
    """Add the options that say which dead letters are meant."""
    action.add_argument(
        "--id", dest="ids", type=int, action="append", default=[], help="with this id; repeatable"
    )
    action.add_argument("--stage", choices=STAGES, help="where it went wrong")
    action.add_argument("--type", metavar="GLOB", help="of an event type like this: 'compute.*'")
    action.add_argument("--error", metavar="TEXT", help="with this text in the error or its class")
    action.add_argument(
        "--since", type=times.moment, metavar="TIME", help=f"last seen then or later: {times.HELP}"
    )
    action.add_argument("--older-than", type=times.age, metavar="AGE", help="last seen longer ago: 30d, 12h")


def filter_of(command: Any) -> storage.DeadLetterFilter:
    """Return which dead letters the options of ``add_filters`` mean."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return storage.DeadLetterFilter(
        ids=tuple(command.ids),
        stage=command.stage,
        event_type=command.type,
        error=command.error,
        seen_since=command.since,
        seen_before=now - command.older_than if command.older_than else None,
    )


def list_letters(conf: cfg.ConfigOpts) -> int:
    """List dead letters.

    :raises StorageUnavailable: the database is away.
    """
    connection = storage.get_connection_from_config(conf)
    output.rows_in(
        conf.command.format,
        _COLUMNS,
        connection.get_dead_letters(filter_of(conf.command), conf.command.limit or None),
        as_row=_row,
        as_document=vars,
    )
    return 0


def show(conf: cfg.ConfigOpts) -> int:
    """Show one dead letter; exit code 1 if it is not there.

    :raises StorageUnavailable: the database is away.
    """
    stored = storage.get_connection_from_config(conf).get_dead_letter(conf.command.id)
    if stored is None:
        sys.stderr.write(f"{conf.command.id}: no dead letter with this id is stored\n")
        return 1
    if conf.command.body:
        sys.stdout.buffer.write(stored.letter.body)
    else:
        _show(stored)
    return 0


def purge(conf: cfg.ConfigOpts) -> int:
    """Delete dead letters.

    :raises ConfigError: neither a filter nor --all was given.
    :raises StorageUnavailable: the database is away.
    """
    which = _chosen(conf.command)
    connection = storage.get_connection_from_config(conf)
    if conf.command.dry_run:
        sys.stdout.write(f"{connection.count_dead_letters(which)} dead letters would be deleted\n")
    else:
        sys.stdout.write(f"{connection.delete_dead_letters(which)} dead letters deleted\n")
    return 0


def replay(conf: cfg.ConfigOpts) -> int:
    """Convert dead letters again and store what became events; exit code 1 if some stayed.

    :raises ConfigError: neither a filter nor --all was given, or the definitions are wrong.
    :raises StorageUnavailable: the database is away; what was replayed before stays so.
    """
    chosen = _chosen(conf.command)
    with contextlib.closing(storage.get_connection_from_config(conf)) as connection:
        work = Replay(connection, conf, dry_run=conf.command.dry_run)
        stayed = list(work.run(chosen))
    if stayed:
        output.table(("id", "reason"), stayed)
    would = "would be " if conf.command.dry_run else ""
    sys.stdout.write(f"{work.replayed} dead letters {would}replayed, {len(stayed)} {would}left\n")
    return 1 if stayed else 0


def _chosen(command: Any) -> storage.DeadLetterFilter:
    which = filter_of(command)
    if which == storage.DeadLetterFilter() and not command.all:
        raise ConfigError(f"dead-letters {command.action}: say which ones by a filter, or --all")
    return which


def _row(letter: DeadLetterSummary) -> list[Any]:
    values = vars(letter) | {"error": f"{letter.error_class}: {letter.error}"}
    return [values[name] for name in _COLUMNS]


def _show(stored: StoredDeadLetter) -> None:
    letter = stored.letter
    fields = {name: getattr(stored, name) for name in ("id", "first_at", "last_at", "attempts")}
    for name in (
        "stage",
        "error_class",
        "error",
        "message_id",
        "event_type",
        "exchange",
        "routing_key",
        "queue",
    ):
        fields[name] = getattr(letter, name)
    for name in ("content_type", "content_encoding", "redacted"):
        fields[name] = getattr(letter, name)
    fields["size"] = len(letter.body)
    fields["digest"] = letter.digest.hex()
    output.table(("field", "value"), fields.items())
    if letter.headers:
        output.document(letter.headers)
