"""``panko-ingest convert``: shows what the event definitions make of notifications, and stores nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg

from panko_ingest import config
from panko_ingest.cli import arguments, output
from panko_ingest.converter import EventDefinition
from panko_ingest.delivery import Delivery
from panko_ingest.storage.models import DEFINITION_TYPES, SALVAGED_KEY, DeadLetter, Event, TraitValue
from panko_ingest.workers.from_config import event_converter, message_processor

_TYPE_NAMES = {number: name for name, number in DEFINITION_TYPES.items()}

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
    arguments.add_files(parser, "JSON, with or without the envelope")
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
    """Convert the notifications and show the result."""
    command = conf.command
    conversion = _Conversion(conf, command.definitions or str(config.find_definitions(conf)))
    if command.diff:
        return _show_differences(conversion, _Conversion(conf, command.diff), command)
    results = (
        _describe(source, body, conversion.result(body)) for source, body in _notifications(command.files)
    )
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
            _show(result, conversion.path)
    return int(failed)


def _notifications(files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the notifications in some files, and say it where there is none."""
    found = False
    for notification in arguments.notifications(files):
        found = True
        yield notification
    if not found:
        output.tell(f"no notifications in {', '.join(files)}")


class _Result:
    """What a notification became, and how where it is an event."""

    def __init__(self, outcome: Event | DeadLetter | None, definition: EventDefinition | None) -> None:
        self.event = outcome if isinstance(outcome, Event) else None
        self.error = outcome.error if isinstance(outcome, DeadLetter) else None
        self.definition = definition
        faults = self.event.raw.get(SALVAGED_KEY, ()) if self.event else ()
        self.salvaged = {fault["trait"]: fault["reason"] for fault in faults}
        made = self.event.traits if self.event else []
        self.traits: Traits = {t.name: (_TYPE_NAMES[t.dtype], t.serialize()[2]) for t in made}

    @property
    def outcome(self) -> str:
        if self.error:
            return f"error: {self.error}"
        return "event" if self.event else "dropped"


class _Conversion:
    """Converts bodies by one file of definitions, as the daemon does."""

    def __init__(self, conf: cfg.ConfigOpts, path: str) -> None:
        self.path = path
        self._converter = event_converter(conf, path, log=False)
        self._processor = message_processor(conf, self._converter)

    def result(self, body: bytes) -> _Result:
        outcome = self._processor.process(Delivery(body))
        event_type = outcome.event_type if isinstance(outcome, Event) else None
        return _Result(outcome, self._converter.definition_of(event_type) if event_type else None)


def _describe(source: str, body: bytes, result: _Result) -> dict[str, Any]:
    event, definition = result.event, result.definition
    unmatched = [
        trait
        for name, trait in (definition.traits if definition else {}).items()
        if name not in result.traits and name not in result.salvaged
    ]
    return {
        "source": source,
        "bytes": len(body),
        "error": result.error,
        "message_id": event and event.message_id,
        "event_type": event and event.event_type,
        "generated": event and event.generated.isoformat(),
        "definition": definition and {"event_type": definition.patterns, "line": definition.line or None},
        "traits": [
            {"name": name, "type": type_name, "value": value}
            for name, (type_name, value) in sorted(result.traits.items())
        ],
        "unmatched": [{"trait": trait.name, "fields": list(trait.fields)} for trait in unmatched],
        "salvaged": [{"trait": name, "reason": reason} for name, reason in sorted(result.salvaged.items())],
    }


def _show(result: dict[str, Any], path: str) -> None:
    write = output.write
    if result["error"]:
        write(f"{result['source']}: cannot become an event: {result['error']}")
        write("")
        return
    if result["message_id"] is None:
        write(f"{result['source']}: dropped: no definition, or no entry of [event] types, matches")
        write("")
        return
    write(f"{result['source']}: {result['event_type']} {result['message_id']} {result['generated']}")
    definition = result["definition"]
    where = f"{path}:{definition['line']}" if definition["line"] else "the default traits only"
    write(f"definition: {', '.join(definition['event_type'])} ({where})")
    output.table(
        ("trait", "type", "value"),
        [(trait["name"], trait["type"], trait["value"]) for trait in result["traits"]],
    )
    for salvaged in result["salvaged"]:
        write(f"{salvaged['trait']}: {salvaged['reason']}")
    if result["unmatched"]:
        unmatched = (f"{trait['trait']} ({', '.join(trait['fields'])})" for trait in result["unmatched"])
        write(f"nothing at: {'; '.join(unmatched)}")
    write("")


def _show_differences(conversion: _Conversion, other: _Conversion, command: Any) -> int:
    changes = [
        change
        for source, body in _notifications(command.files)
        if (change := _difference(source, conversion.result(body), other.result(body)))
    ]
    if command.json:
        output.json_list(changes)
    for change in () if command.json else changes:
        output.write(f"{change['source']}: {change['event_type']}")
        for what, before, after in change["outcome"]:
            output.write(f"{what}: {before} -> {after}")
        if change["traits"]:
            output.table(
                ("trait", "before", "after"),
                [
                    (entry["name"], _shown(entry["before"]), _shown(entry["after"]))
                    for entry in change["traits"]
                ],
            )
        output.write("")
    return int(bool(changes))


def _difference(source: str, before: _Result, after: _Result) -> dict[str, Any] | None:
    old, new = before.traits, after.traits
    traits = [
        {"name": name, "before": old.get(name), "after": new.get(name)}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    outcome: list[tuple[str, Any, Any]] = []
    if before.outcome != after.outcome:
        outcome.append(("outcome", before.outcome, after.outcome))
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


def _shown(trait: tuple[str, TraitValue] | None) -> str:
    return "" if trait is None else f"{trait[1]} ({trait[0]})"
