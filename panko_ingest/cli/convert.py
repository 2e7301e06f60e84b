"""``panko-ingest convert``: shows what the event definitions make of notifications, and stores nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg

from panko_ingest import config
from panko_ingest.cli import output
from panko_ingest.converter import EventConverter, Explanation, TypeFilter, explain
from panko_ingest.errors import ConfigError, DecodeError
from panko_ingest.notification import Notification
from panko_ingest.storage.models import Trait, TraitValue

Traits = dict[str, tuple[str, TraitValue]]


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "convert",
        help="show what the event definitions make of notifications",
        description="Decode and convert the notifications in files, store nothing, and show for each the "
        "definition that matched, its traits, the fields that matched nothing, and what was dropped. "
        "Exit code 1: something could not be decoded or converted, or (with --diff) would change.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSON, with or without the envelope: one notification, a list of them, or one a line; "
        "- is standard input",
    )
    parser.add_argument(
        "--definitions", metavar="FILE", help="use these definitions, not the configured ones"
    )
    parser.add_argument(
        "--diff",
        metavar="OTHER_DEFINITIONS",
        help="show only what would change with these definitions",
    )
    parser.add_argument("--json", action="store_true", help="write a JSON list")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Convert the notifications and show the result.

    :raises ConfigError: a file can't be read, or definitions are wrong.
    """
    command = conf.command
    session = _Session(conf, command.definitions or config.find_definitions(conf))
    if command.diff:
        return _show_differences(session, _Session(conf, command.diff), command)
    results = (_describe(source, body, session.explain(body)) for source, body in _bodies(command.files))
    failed = False

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for result in results:
            failed = failed or bool(result["error"] or result["salvaged"])
            yield result

    if command.json:
        output.json_list(watched())
    else:
        for result in watched():
            _show(result, session.path)
    return int(failed)


class _Session:
    """Explains bodies by one file of definitions, within the configured bounds."""

    def __init__(self, conf: cfg.ConfigOpts, path: str) -> None:
        self.path = path
        self._accepted = TypeFilter(conf.event.types)
        self._max_size = conf.notification.max_message_size
        self._max_depth = conf.notification.max_depth
        self._converter = EventConverter.from_file(
            path, conf.event.store_raw, conf.event.drop_unmatched_notifications
        )

    def explain(self, body: bytes) -> Explanation:
        try:
            notification = Notification.decode(body, max_size=self._max_size, max_depth=self._max_depth)
        except DecodeError as error:
            return Explanation(error=str(error))
        if not self._accepted(notification.message["event_type"]):
            return Explanation()
        return explain(self._converter, notification.message, notification.priority)


def _bodies(files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield where each notification stands, and its bytes."""
    for name in files:
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: {error.strerror}") from error
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            lines = enumerate(content.splitlines(), 1)
            yield from ((f"{name}:{number}", line) for number, line in lines if line.strip())
            continue
        if isinstance(document, list):
            for number, item in enumerate(document, 1):
                yield f"{name}#{number}", json.dumps(item).encode()
        else:
            yield name, content


def _describe(source: str, body: bytes, explanation: Explanation) -> dict[str, Any]:
    event, definition = explanation.event, explanation.definition
    return {
        "source": source,
        "bytes": len(body),
        "error": explanation.error,
        "message_id": event and event.message_id,
        "event_type": event and event.event_type,
        "generated": event and event.generated.isoformat(),
        "definition": definition and {"event_type": definition.patterns, "line": definition.line or None},
        "traits": [
            {"name": name, "type": type_name, "value": value}
            for name, (type_name, value) in sorted(_traits(explanation).items())
        ],
        "unmatched": [{"trait": trait.name, "fields": list(trait.fields)} for trait in explanation.unmatched],
        "salvaged": [
            {"trait": name, "reason": reason} for name, reason in sorted(explanation.salvaged.items())
        ],
    }


def _traits(explanation: Explanation) -> Traits:
    made = explanation.event.traits if explanation.event else []
    return {trait.name: (_TYPE_NAMES[trait.dtype], trait.serialize()[2]) for trait in made}


_TYPE_NAMES = {
    Trait.TEXT_TYPE: "text",
    Trait.INT_TYPE: "int",
    Trait.FLOAT_TYPE: "float",
    Trait.DATETIME_TYPE: "datetime",
}


def _show(result: dict[str, Any], path: str) -> None:
    write = sys.stdout.write
    if result["error"]:
        write(f"{result['source']}: cannot become an event: {result['error']}\n\n")
        return
    if result["message_id"] is None:
        write(f"{result['source']}: dropped: no definition, or no entry of [event] types, matches\n\n")
        return
    write(f"{result['source']}: {result['event_type']} {result['message_id']} {result['generated']}\n")
    definition = result["definition"]
    where = f"{path}:{definition['line']}" if definition["line"] else "the default traits only"
    write(f"definition: {', '.join(definition['event_type'])} ({where})\n")
    output.table(
        ("trait", "type", "value"),
        [(trait["name"], trait["type"], trait["value"]) for trait in result["traits"]],
    )
    for salvaged in result["salvaged"]:
        write(f"{salvaged['trait']}: {salvaged['reason']}\n")
    if result["unmatched"]:
        unmatched = (f"{trait['trait']} ({', '.join(trait['fields'])})" for trait in result["unmatched"])
        write(f"nothing at: {'; '.join(unmatched)}\n")
    write("\n")


def _show_differences(session: _Session, other: _Session, command: Any) -> int:
    changes = [
        change
        for source, body in _bodies(command.files)
        if (change := _difference(source, session.explain(body), other.explain(body)))
    ]
    if command.json:
        output.json_list(changes)
    for change in () if command.json else changes:
        sys.stdout.write(f"{change['source']}: {change['event_type']}\n")
        for what, before, after in change["outcome"]:
            sys.stdout.write(f"{what}: {before} -> {after}\n")
        if change["traits"]:
            output.table(
                ("trait", "before", "after"),
                [
                    (entry["name"], _shown(entry["before"]), _shown(entry["after"]))
                    for entry in change["traits"]
                ],
            )
        sys.stdout.write("\n")
    return int(bool(changes))


def _difference(source: str, before: Explanation, after: Explanation) -> dict[str, Any] | None:
    old, new = _traits(before), _traits(after)
    traits = [
        {"name": name, "before": old.get(name), "after": new.get(name)}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    outcome: list[tuple[str, Any, Any]] = []
    if _outcome(before) != _outcome(after):
        outcome.append(("outcome", _outcome(before), _outcome(after)))
    if before.salvaged != after.salvaged:
        outcome.append(("salvaged", before.salvaged, after.salvaged))
    if not traits and not outcome:
        return None
    event = before.event or after.event
    return {
        "source": source,
        "event_type": event and event.event_type,
        "outcome": outcome,
        "traits": traits,
    }


def _outcome(explanation: Explanation) -> str:
    if explanation.error:
        return f"error: {explanation.error}"
    return "event" if explanation.event else "dropped"


def _shown(trait: tuple[str, TraitValue] | None) -> str:
    return "" if trait is None else f"{trait[1]} ({trait[0]})"
