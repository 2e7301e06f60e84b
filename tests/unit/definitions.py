"""Converters of definitions that a test writes in its own text."""

from pathlib import Path
from typing import Any

from panko_ingest.converter import EventConverter, EventDefinition
from panko_ingest.converter.values import CONVERTERS, Faults
from panko_ingest.storage.models import Trait

MESSAGE_ID = "c0ffee00-0000-4000-8000-000000000001"


def notification(event_type: str = "test.event", payload: Any = None, **others: Any) -> dict[str, Any]:
    """Return a notification in Ceilometer's shape."""
    return {
        "ctxt": {},
        "publisher_id": "compute.cmp001",
        "event_type": event_type,
        "payload": payload,
        "metadata": {"message_id": MESSAGE_ID, "timestamp": "2026-11-23 13:16:34.317715"},
        **others,
    }


def converter(folder: Path, text: str, **options: Any) -> EventConverter:
    """Return a converter by definitions in YAML."""
    path = folder / "event_definitions.yaml"
    path.write_text(text, encoding="utf-8")
    return EventConverter.from_file(path, **options)


def values(conversion: EventConverter, message: dict[str, Any]) -> dict[str, Any]:
    """Return the traits of a notification's event, by name."""
    event = conversion.to_event(message, "info")
    assert event is not None
    return {trait.name: trait.value for trait in event.traits}


def plainly(definition: EventDefinition, notification: dict[str, Any], faults: Faults) -> list[Trait]:
    """Return what ``definition.to_traits`` does, by jsonpath-ng alone."""
    made = []
    for trait in definition.traits.values():
        value = trait.evaluate_safely(notification, faults)
        if value is not None:
            value = CONVERTERS[trait.dtype](value, trait.name, faults)
        if value is not None:
            made.append(Trait(trait.name, trait.dtype, value))
    return made
