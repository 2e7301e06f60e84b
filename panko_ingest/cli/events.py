"""``panko-ingest events``: reads what is stored."""

import argparse
import fnmatch
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_config import cfg

from panko_ingest import storage
from panko_ingest.cli import output, times
from panko_ingest.errors import ConfigError
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait

_OPERATORS = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_TRAIT = re.compile(
    r"(?:(string|integer|float|datetime):)?([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL
)
_EVENT_COLUMNS = ("generated", "event_type", "message_id")
_DEFAULT_TRAITS = ["project_id", "resource_id"]


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("events", help="read the events that are stored")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_list(actions)
    action = actions.add_parser("show", help="show events with all their traits and their raw notification")
    action.add_argument("message_ids", nargs="+", metavar="MESSAGE_ID")
    action.add_argument("--format", choices=("table", "json"), default="table")
    action.set_defaults(run=show)
    action = actions.add_parser("types", help="list the types of the events")
    action.add_argument("types", nargs="*", metavar="GLOB", help="only types like this: 'compute.*'")
    action.add_argument("--traits", action="store_true", help="also list the traits that events of each have")
    action.add_argument("--format", choices=("table", "json", "csv"), default="table")
    action.set_defaults(run=show_types)


def _add_list(actions: Any) -> None:
    action = actions.add_parser(
        "list",
        help="list events",
        description="List events, the newest first, with some of their traits.",
        epilog="Where more events match than --limit allows, the last line tells how to get the next page.",
    )
    action.add_argument(
        "--since", type=times.moment, metavar="TIME", help=f"generated then or later: {times.HELP}"
    )
    action.add_argument("--until", type=times.moment, metavar="TIME", help="generated then or earlier")
    action.add_argument(
        "--type",
        action="append",
        default=[],
        metavar="GLOB",
        help="of types like this: 'compute.*'; repeatable",
    )
    action.add_argument(
        "-t",
        "--trait",
        action="append",
        default=[],
        type=trait_filter,
        metavar="FILTER",
        help="with such a trait: project_id=5fa1…, 'disk_gb>20', 'launched_at>=2026-01-01'; operators are "
        "= != < <= > >=; string:, integer:, float: or datetime: before the name tells the type; repeatable",
    )
    action.add_argument(
        "--salvaged", action="store_true", help="only events of which a trait had to be changed"
    )
    action.add_argument(
        "--limit", type=_count, default=100, metavar="N", help="at most N; 0: all (default: 100)"
    )
    action.add_argument("--marker", metavar="MESSAGE_ID", help="go on behind this event")
    action.add_argument("--oldest-first", action="store_true", help="begin with the oldest")
    action.add_argument("--format", choices=("table", "json", "csv"), default="table")
    action.add_argument(
        "--columns",
        type=_names,
        default=_DEFAULT_TRAITS,
        metavar="TRAIT,...",
        help=f"traits to show in a table or CSV (default: {','.join(_DEFAULT_TRAITS)})",
    )
    action.set_defaults(run=list_events)


def list_events(conf: cfg.ConfigOpts) -> int:
    """List events.

    :raises ConfigError: what is asked for makes no sense.
    :raises StorageUnavailable: the database is away.
    """
    command = conf.command
    if command.since and command.until and command.since > command.until:
        raise ConfigError(
            f"--since ({command.since:%F %T} UTC) is later than --until ({command.until:%F %T} UTC)"
        )
    connection = storage.get_connection_from_config(conf)
    types = _types_like(connection, command.type)
    if command.type and not types:
        raise ConfigError(f"--type: no events of a type like {', '.join(command.type)} are stored")
    event_filter = storage.EventFilter(
        start_timestamp=command.since,
        end_timestamp=command.until,
        event_type=types,
        traits_filter=command.trait,
        salvaged=command.salvaged,
    )
    direction = "asc" if command.oldest_first else "desc"
    pagination = {
        "limit": command.limit or None,
        "marker": command.marker,
        "sort": [("generated", direction), ("message_id", direction)],
    }
    page = _Page(_get(connection, event_filter, pagination))
    output.rows_in(
        command.format,
        (*_EVENT_COLUMNS, *command.columns),
        page,
        as_row=lambda event: _row(event, command.columns),
        as_document=Event.serialize,
        whole=("message_id",),
    )
    if page.last is not None and page.length == command.limit:
        sys.stderr.write(f"there may be more: --marker {page.last.message_id}\n")
    return 0


def show(conf: cfg.ConfigOpts) -> int:
    """Show events in full; exit code 1 if one is not stored.

    :raises StorageUnavailable: the database is away.
    """
    connection = storage.get_connection_from_config(conf)
    found: list[Event] = []
    for message_id in conf.command.message_ids:
        events = list(_get(connection, storage.EventFilter(message_id=message_id), {}))
        if not events:
            sys.stderr.write(f"{message_id}: no such event is stored\n")
        found += events
    if conf.command.format == "json":
        output.json_list(event.serialize() for event in found)
    else:
        for event in found:
            _show(event)
    return int(len(found) < len(conf.command.message_ids))


def show_types(conf: cfg.ConfigOpts) -> int:
    """List event types.

    :raises StorageUnavailable: the database is away.
    """
    connection = storage.get_connection_from_config(conf)
    types = _types_like(connection, conf.command.types or ["*"])
    columns = ("event_type", "trait", "type") if conf.command.traits else ("event_type",)
    rows = (
        (event_type, trait["name"], Trait.get_name_by_type(trait["data_type"]))
        for event_type in types
        for trait in connection.get_trait_types(event_type)
    )
    output.rows_in(
        conf.command.format,
        columns,
        rows if conf.command.traits else ((name,) for name in types),
        as_row=lambda values: values,
        as_document=lambda values: dict(zip(columns, values, strict=True)),
    )
    return 0


def trait_filter(text: str) -> dict[str, Any]:
    """Return a filter such as ``disk_gb>20`` as a ``traits_filter`` takes it.

    :raises argparse.ArgumentTypeError: it is none.
    """
    match = _TRAIT.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no filter: write for example project_id=5fa1 or 'disk_gb>20'"
        )
    kind, key, operator, value = match.groups()
    return {"key": key, kind or "any": value, "op": _OPERATORS[operator]}


class _Page:
    """Events on their way out, counted, with the last of them kept: the next page goes on behind it."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.length = 0
        self.last: Event | None = None

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            self.length += 1
            self.last = event
            yield event


def _get(
    connection: storage.Connection, event_filter: storage.EventFilter, pagination: dict[str, Any]
) -> Iterable[Event]:
    try:
        return connection.get_events(event_filter, pagination)
    except storage.StorageError as error:
        raise ConfigError(str(error)) from error


def _types_like(connection: storage.Connection, globs: list[str]) -> list[str]:
    if not globs:
        return []
    return [
        name
        for name in connection.get_event_types()
        if any(fnmatch.fnmatchcase(name, glob) for glob in globs)
    ]


def _row(event: Event, traits: list[str]) -> list[Any]:
    values = {trait.name: trait.value for trait in event.traits}
    return [event.generated, event.event_type, event.message_id, *(values.get(name) for name in traits)]


def _show(event: Event) -> None:
    fields = [(name, str(getattr(event, name))) for name in ("message_id", "event_type", "generated")]
    output.table(("field", "value"), fields)
    kinds = Trait.get_name_by_type
    output.table(("trait", "type", "value"), [(t.name, kinds(t.dtype), str(t.value)) for t in event.traits])
    if salvaged := event.raw.get(SALVAGED_KEY):
        output.table(
            ("salvaged trait", "reason"), [(one.get("trait"), one.get("reason")) for one in salvaged]
        )
    if raw := {key: value for key, value in event.raw.items() if key != SALVAGED_KEY}:
        output.document(raw)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 upwards")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
