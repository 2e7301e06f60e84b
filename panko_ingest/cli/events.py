"""``panko-ingest events``: reads what is stored."""

import fnmatch
import itertools
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from oslo_config import cfg

from panko_ingest import storage
from panko_ingest.cli import arguments, event_lists, output
from panko_ingest.errors import ConfigError
from panko_ingest.foreign_text import escaped_error
from panko_ingest.storage.models import SALVAGED_KEY, Event, Trait

RESOURCE_TRAITS = ("resource_id", "instance_id", "user_id")
"""The traits of an event that say to what or by whom it happened; each has an index."""

_COLUMNS = ("generated", "event_type", "message_id")
_TIMELINE = ("generated", "event_type", "result", "user", "request_id", "resource_id", "message_id")
# Of several traits the first that an event has tells.
_RESULTS = ("outcome", "state", "status", "fault_message", "fault")
_USERS = ("user_name", "user", "initiator_name", "user_id", "initiator_id")

_LONGEST_PAUSE = 15.0
_UUID = 36


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("events", help="read the events that are stored")
    parser.set_defaults(reader_may_leave=True)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_list(actions)
    action = actions.add_parser(
        "show",
        help="show events with all their traits and their raw notification",
        description="Show events in full: their traits with types, and the notification that they were made "
        "of, where [event] store_raw keeps it. Exit code 1: one is not stored.",
    )
    action.add_argument(
        "message_ids",
        nargs="+",
        type=arguments.filled,
        metavar="MESSAGE_ID",
        help="the message_id that `events list` shows",
    )
    arguments.add_format(action)
    action.set_defaults(run=show)
    _add_follow(actions)
    _add_timelines(actions)
    action = actions.add_parser(
        "types",
        help="list the types of the events",
        description="List the types of the events that are stored, with --since or --until those of which "
        "there is one of that time.",
    )
    like = "only types like this: 'compute.*'"
    action.add_argument("types", nargs="*", type=arguments.filled, metavar="GLOB", help=like)
    action.add_argument("--traits", action="store_true", help="also list the traits that events of each have")
    action.add_argument(
        "--count", action="store_true", help="also count the events of each; none without any"
    )
    arguments.add_times(action)
    arguments.add_format(action, "csv")
    action.set_defaults(run=show_types)


def _add_list(actions: Any) -> None:
    action = actions.add_parser(
        "list",
        help="list events",
        description="List events, the newest first, with some of their traits.",
        epilog="Where more events match than --limit allows, the last line tells how to get the next page.",
    )
    arguments.add_times(action)
    arguments.add_filters(action)
    arguments.add_limit(action, 100)
    action.add_argument(
        "--marker",
        type=arguments.filled,
        metavar="MARKER",
        help="go on behind this event: its message_id, or what the list before said",
    )
    action.add_argument("--oldest-first", action="store_true", help="begin with the oldest")
    arguments.add_format(action, "csv")
    arguments.add_columns(action)
    action.set_defaults(run=list_events)


def _add_follow(actions: Any) -> None:
    action = actions.add_parser(
        "follow",
        help="show events as they are stored",
        description="Show each event from now on, soon after it is committed, until Ctrl-C. When the "
        "database is away meanwhile, it is tried again, and nothing is missed.",
    )
    arguments.add_filters(action)
    action.add_argument(
        "--interval",
        type=arguments.interval,
        default=1.0,
        metavar="SECONDS",
        help="look so often (default: 1)",
    )
    action.add_argument("--count", type=arguments.count, metavar="N", help="end after N events")
    arguments.add_format(action)
    arguments.add_columns(action)
    action.set_defaults(run=follow)


def _add_timelines(actions: Any) -> None:
    history = actions.add_parser(
        "history",
        help="show all that happened to a resource",
        description="Show all that happened to a server, a volume, a user or anything else that has an id, "
        f"the oldest first: events whose {', '.join(RESOURCE_TRAITS[:-1])} or {RESOURCE_TRAITS[-1]} it is.",
    )
    resource = "the id of a server, a volume, a user ..."
    history.add_argument("id", type=arguments.filled, metavar="RESOURCE", help=resource)
    history.set_defaults(traits=RESOURCE_TRAITS)
    request = actions.add_parser(
        "request",
        help="show what came of a request",
        description="Show the events of one request over all services, the oldest first.",
    )
    of_request = "the id of the request: req-..."
    request.add_argument("id", type=arguments.filled, metavar="REQ-ID", help=of_request)
    request.set_defaults(traits=["request_id"])
    for action in (history, request):
        arguments.add_times(action)
        arguments.add_limit(action, 0)
        arguments.add_format(action, "csv")
        action.set_defaults(run=show_timeline)


def list_events(conf: cfg.ConfigOpts) -> int:
    """List events, a page at a time."""
    command = conf.command
    arguments.check_times(command)
    connection = storage.get_connection_from_config(conf)
    types = _types_like(connection, command.type)
    nothing = command.type and not types
    event_filter = storage.EventFilter(
        start_timestamp=command.since,
        end_timestamp=command.until,
        event_type=types or None,
        traits_filter=command.trait,
        salvaged=command.salvaged,
    )
    direction = "asc" if command.oldest_first else "desc"
    pagination = {
        "limit": command.limit or None,
        "marker": command.marker,
        "sort": [("generated", direction), ("message_id", direction)],
    }
    page = _Page(() if nothing else event_lists.get(connection, event_filter, pagination))
    output.rows_in(
        command.format,
        (*_COLUMNS, *command.columns),
        page,
        as_row=lambda event: _row(event, command.columns),
        as_document=document,
        whole=_COLUMNS,
    )
    if page.last is not None and page.length == command.limit:
        marker = page.last.marker
        output.tell(
            f"there may be more: {f'--marker {shlex.quote(marker)}' if marker else '--limit 0 lists all'}"
        )
    return 0


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


def show(conf: cfg.ConfigOpts) -> int:
    """Show events in full; exit code 1 if one is not stored."""
    connection = storage.get_connection_from_config(conf)
    found: list[Event] = []
    code = 0
    for message_id in conf.command.message_ids:
        events = list(event_lists.get(connection, storage.EventFilter(message_id=message_id), {}))
        if not events:
            output.tell(f"{message_id}: no such event is stored")
            code = 1
        found += events
    if conf.command.format == "json":
        output.json_list(map(document, found))
    else:
        for event in found:
            _show(event)
    return code


def _show(event: Event) -> None:
    fields = [(name, str(getattr(event, name))) for name in ("message_id", "event_type", "generated")]
    output.table(("field", "value"), fields)
    kinds = Trait.get_name_by_type
    output.table(("trait", "type", "value"), [(t.name, kinds(t.dtype), str(t.value)) for t in event.traits])
    raw = dict(event.raw)
    salvaged = raw.get(SALVAGED_KEY)
    # What another program keeps under that key is a part of the document.
    if isinstance(salvaged, list) and all(isinstance(one, dict) for one in salvaged):
        del raw[SALVAGED_KEY]
        output.table(
            ("salvaged trait", "reason"), [(one.get("trait"), one.get("reason")) for one in salvaged]
        )
    if raw:
        output.document(raw)


def show_types(conf: cfg.ConfigOpts) -> int:
    """List event types, with their traits or how many events there are of each."""
    command = conf.command
    arguments.check_times(command)
    counts_events = command.count or command.since or command.until
    if command.traits and counts_events:
        raise ConfigError("events types: --traits goes with neither --count nor --since and --until")
    connection = storage.get_connection_from_config(conf)
    globs = command.types
    types = _types_like(connection, globs) if globs else list(connection.get_event_types())
    columns = ["event_type"]
    rows: list[tuple[object, ...]] = [(name,) for name in types]
    if command.traits:
        columns += ["trait", "type"]
        rows = [
            (event_type, trait["name"], Trait.get_name_by_type(trait["data_type"]))
            for event_type in types
            for trait in connection.get_trait_types(event_type)
        ]
    elif counts_events:
        columns += ["events"] if command.count else []
        counts = connection.count_events(command.since, command.until)
        rows = [(name, counts[name])[: len(columns)] for name in types if name in counts]
    output.rows_in(
        command.format,
        columns,
        rows,
        as_row=lambda values: values,
        as_document=lambda values: dict(zip(columns, values, strict=True)),
    )
    return 0


def follow(conf: cfg.ConfigOpts) -> int:
    """Show events as they are stored; in JSON one document a line."""
    command = conf.command
    connection = storage.get_connection_from_config(conf)
    event_filter = storage.EventFilter(traits_filter=command.trait, salvaged=command.salvaged)
    event_lists.get(connection, event_filter, {"limit": 0})  # tells a filter that makes no sense
    follower = connection.follow(event_filter)
    write = _writer(command)
    shown, pause, answered = 0, 0.0, False
    while command.count is None or shown < command.count:
        try:
            for event in follower.poll():
                if command.type and not matches(event.event_type, command.type):
                    continue
                write(event)
                shown += 1
                if shown == command.count:
                    break
        except storage.StorageUnavailable as error:
            if not answered:  # a wrong password is not waited for
                raise
            if not pause:
                sys.stderr.write(f"panko-ingest: {escaped_error(error)}; trying until it is back\n")
            pause = min(_LONGEST_PAUSE, 2 * pause or command.interval)
        else:
            pause, answered = 0.0, True
        sys.stdout.flush()
        if command.count is None or shown < command.count:
            time.sleep(pause or command.interval)
    return 0


def _writer(command: Any) -> Callable[[Event], None]:
    if command.format == "json":
        return lambda event: output.json_lines([document(event)])
    traits = dict.fromkeys(command.columns, _UUID)
    lines = output.Lines({"generated": 19, "event_type": _UUID, "message_id": _UUID, **traits})
    return lambda event: lines.write(_row(event, command.columns))


def show_timeline(conf: cfg.ConfigOpts) -> int:
    """Show what happened to a resource or came of a request; exit code 1 where there is no event."""
    command = conf.command
    arguments.check_times(command)
    connection = storage.get_connection_from_config(conf)
    found = event_lists.timeline(
        connection, command.traits, command.id, command.limit or None, command.since, command.until
    )
    first = next(found, None)
    if first is None:
        output.tell(f"{command.id}: no event of it is stored")
        return 1
    output.rows_in(
        command.format,
        _TIMELINE,
        itertools.chain([first], found),
        as_row=_timeline_row,
        as_document=document,
        whole=("generated", "event_type"),
    )
    return 0


def _timeline_row(event: Event) -> list[Any]:
    values = {trait.name: trait.value for trait in event.traits}
    result, user = (
        next((values[name] for name in names if values.get(name)), None) for names in (_RESULTS, _USERS)
    )
    return [
        event.generated, event.event_type, result, user, values.get("request_id"), values.get("resource_id"),
        event.message_id,
    ]  # fmt: skip


def _row(event: Event, traits: list[str]) -> list[Any]:
    values = {trait.name: trait.value for trait in event.traits}
    return [event.generated, event.event_type, event.message_id, *(values.get(name) for name in traits)]


def document(event: Event) -> dict[str, Any]:
    """Return an event as JSON has it, with the types of its traits by name."""
    traits = [
        {"name": name, "type": Trait.get_name_by_type(dtype), "value": value}
        for name, dtype, value in map(Trait.serialize, event.traits)
    ]
    return {**event.serialize(), "traits": traits}


def matches(name: str | None, globs: list[str]) -> bool:
    """Tell whether a name matches one of the globs; none does, as adopted tables may have a type without."""
    return name is not None and any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _types_like(connection: storage.Connection, globs: list[str]) -> list[str]:
    """Return the event types that are stored and match one of the globs; none without globs."""
    if not globs:
        return []
    types = [name for name in connection.get_event_types() if matches(name, globs)]
    if not types:
        output.tell(f"no events of a type like {', '.join(globs)} are stored")
    return types
