"""``panko-ingest dead-letters``: what could not become an event, and why."""

import argparse
import contextlib
import itertools
from typing import Any

from oslo_config import cfg

from panko_ingest import storage
from panko_ingest.cli import arguments, output, progress
from panko_ingest.delivery import Delivery
from panko_ingest.errors import STAGES, ConfigError
from panko_ingest.pipeline import MessageProcessor
from panko_ingest.storage.models import DeadLetterSummary, Event, StoredDeadLetter
from panko_ingest.workers.from_config import event_converter, message_processor

_COLUMNS = ("id", "last_at", "attempts", "stage", "error", "event_type", "message_id", "queue", "size")
_PROGRESS_FROM = 100
_REPLAYED_AT_ONCE = 100
_BYTES_AT_ONCE = 32 * 1024 * 1024
"""Held by what is stored in one transaction, unless a single message holds more."""
_SHOWN = (
    "stage", "error_class", "error", "message_id", "event_type", "exchange", "routing_key", "queue",
    "content_type", "content_encoding", "redacted",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("dead-letters", help="look at the messages that could not become events")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser(
        "list",
        help="list them, the one seen last first",
        description="List the messages that could not become events, the one seen last first, each with the "
        "reason.",
    )
    _add_filters(action)
    arguments.add_limit(action, 100)
    arguments.add_format(action, "csv")
    action.set_defaults(run=list_letters, reader_may_leave=True)
    action = actions.add_parser(
        "show",
        help="show one in full",
        description="Show why a message could not become an event, where it came from, and what it held. "
        "redacted: whether passwords and tokens were taken out of the body before it was kept; digest and "
        "size are those of what was kept.",
    )
    action.add_argument("id", type=int, metavar="ID", help="the number that `dead-letters list` shows")
    action.add_argument(
        "--body",
        action="store_true",
        help="write the delivered bytes, and nothing else; on a terminal escaped",
    )
    action.set_defaults(run=show, reader_may_leave=True)
    action = actions.add_parser(
        "replay",
        help="convert them again, with the configuration of now",
        description="Decode and convert the delivered bytes again. What becomes an event is stored, and its "
        "dead letter deleted in the same transaction, a hundred at once; what does not stays and is listed "
        "with its reason, as does what the database keeps. Exit code 1: some stayed.",
    )
    _add_filters(action)
    action.add_argument("--all", action="store_true", help="replay all of them")
    action.add_argument("--dry-run", action="store_true", help="only convert them")
    action.set_defaults(run=replay, goes_on=True)
    action = actions.add_parser(
        "purge",
        help="delete them",
        description="Delete dead letters: those that all the filters name, or all of them with --all and no "
        "filter. Exit code 1: the database keeps some, by a trigger or a reference of somebody else's.",
    )
    _add_filters(action)
    action.add_argument("--all", action="store_true", help="delete all of them")
    action.add_argument("--dry-run", action="store_true", help="only count them")
    action.set_defaults(run=purge)


def _add_filters(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--id",
        dest="ids",
        type=int,
        metavar="ID",
        action="append",
        default=[],
        help="the one with this number, which `dead-letters list` shows; repeatable",
    )
    action.add_argument("--stage", choices=STAGES, help="where it went wrong")
    types = "of an event type like this: 'compute.*'"
    action.add_argument("--type", type=arguments.filled, metavar="GLOB", help=types)
    error = "with this text in the error or its class"
    action.add_argument("--error", type=arguments.filled, metavar="TEXT", help=error)
    since = f"last seen then or later: {arguments.MOMENT}"
    action.add_argument("--since", type=arguments.moment, metavar="TIME", help=since)
    older = "last seen longer ago: 30d, 12h"
    action.add_argument("--older-than", type=arguments.age, metavar="AGE", help=older)


def _filter_of(command: Any, connection: storage.Connection) -> storage.DeadLetterFilter:
    return storage.DeadLetterFilter(
        ids=tuple(command.ids),
        stage=command.stage,
        event_type=command.type,
        error=command.error,
        seen_since=command.since,
        seen_before=connection.now() - command.older_than if command.older_than else None,
    )


def list_letters(conf: cfg.ConfigOpts) -> int:
    """List dead letters."""
    command = conf.command
    connection = storage.get_connection_from_config(conf)
    most = command.limit + 1 if command.limit else None
    found = iter(connection.get_dead_letters(_filter_of(command, connection), most))
    listed = itertools.islice(found, command.limit or None)
    output.rows_in(command.format, _COLUMNS, listed, as_row=_row, as_document=vars)
    if next(found, None) is not None:
        output.tell("there are more: --limit 0 lists all")
    return 0


def show(conf: cfg.ConfigOpts) -> int:
    """Show one dead letter; exit code 1 if it is not there."""
    stored = storage.get_connection_from_config(conf).get_dead_letter(conf.command.id)
    if stored is None:
        output.tell(f"{conf.command.id}: no dead letter with this id is stored")
        return 1
    if conf.command.body:
        output.content(stored.letter.body)
    else:
        _show(stored)
    return 0


def purge(conf: cfg.ConfigOpts) -> int:
    """Delete dead letters; exit code 1 if the database keeps some."""
    connection = storage.get_connection_from_config(conf)
    which = _chosen(conf.command, connection)
    if conf.command.dry_run:
        output.write(f"{connection.count_dead_letters(which)} dead letters would be deleted")
        return 0
    done = connection.delete_dead_letters(which)
    kept = f", {done.kept} kept: {done.why}" if done.kept else ""
    output.write(f"{done.deleted} dead letters deleted{kept}")
    return 1 if done.kept else 0


def replay(conf: cfg.ConfigOpts) -> int:
    """Convert dead letters again and store what became events; exit code 1 if some stayed."""
    processor = message_processor(conf, event_converter(conf))
    with contextlib.closing(storage.get_connection_from_config(conf)) as connection:
        which = _chosen(conf.command, connection)
        total = connection.count_dead_letters(which)
        replay = _Replay(connection, processor, dry_run=conf.command.dry_run)
        with progress.shown("replaying", worthwhile=total >= _PROGRESS_FROM) as tell:
            for number, stored in enumerate(connection.get_stored_dead_letters(which), 1):
                if replay.add(stored):
                    replay.store()
                tell(number, total)
            replay.store()
    if replay.stayed:
        output.table(("id", "reason"), replay.stayed)
    would = "would be " if conf.command.dry_run else ""
    output.write(f"{replay.replayed} dead letters {would}replayed, {len(replay.stayed)} {would}left")
    return 1 if replay.stayed else 0


class _Replay:
    """Converts dead letters again, and stores what becomes of them, many in one transaction."""

    def __init__(self, connection: storage.Connection, processor: MessageProcessor, *, dry_run: bool) -> None:
        self._connection = connection
        self._processor = processor
        self._dry_run = dry_run
        self._events: dict[int, Event] = {}
        self._bytes = 0
        self.replayed = 0
        self.stayed: list[tuple[int, str]] = []
        """The ids of those that become no event today, either, each with the reason."""

    def add(self, stored: StoredDeadLetter) -> bool:
        """Convert one; return whether it is time to store."""
        letter = stored.letter
        delivery = Delivery(
            letter.body,
            content_type=letter.content_type,
            content_encoding=letter.content_encoding,
            headers=letter.headers,
            queue=letter.queue,
        )
        outcome = self._processor.process(delivery)
        if isinstance(outcome, Event):
            self._events[stored.id] = outcome
            self._bytes += delivery.bytes_held
        elif outcome is None:
            reason = "its event type is not to be stored ([event] types, drop_unmatched_notifications)"
            self.stayed.append((stored.id, reason))
        else:
            self.stayed.append((stored.id, f"{outcome.error_class}: {outcome.error}"))
        return len(self._events) >= _REPLAYED_AT_ONCE or self._bytes >= _BYTES_AT_ONCE

    def store(self) -> None:
        """Store the events at hand, and delete their letters, unless it is only a trial."""
        if not self._events:
            return
        refused = {} if self._dry_run else self._connection.replay_dead_letters(self._events)
        self.stayed += [(letter, f"{type(error).__name__}: {error}") for letter, error in refused.items()]
        self.replayed += len(self._events) - len(refused)
        self._events, self._bytes = {}, 0


def _chosen(command: Any, connection: storage.Connection) -> storage.DeadLetterFilter:
    which = _filter_of(command, connection)
    if which == storage.DeadLetterFilter() and not command.all:
        raise ConfigError(f"dead-letters {command.action}: say which ones by a filter, or --all")
    return which


def _row(letter: DeadLetterSummary) -> list[Any]:
    values = vars(letter) | {"error": f"{letter.error_class}: {letter.error}"}
    return [values[name] for name in _COLUMNS]


def _show(stored: StoredDeadLetter) -> None:
    letter = stored.letter
    fields = {name: getattr(stored, name) for name in ("id", "first_at", "last_at", "attempts")}
    fields |= {name: getattr(letter, name) for name in _SHOWN}
    fields |= {"size": len(letter.body), "digest": letter.digest.hex()}
    output.table(("field", "value"), fields.items())
    if letter.headers:
        output.document(letter.headers)
