"""What the definitions make of one notification, and why: for an operator who writes them."""

from dataclasses import dataclass, field
from typing import Any

from panko_ingest.converter.definitions import EventDefinition
from panko_ingest.converter.engine import EventConverter
from panko_ingest.converter.traits import TraitDefinition
from panko_ingest.errors import MessageError
from panko_ingest.storage.models import SALVAGED_KEY, Event


@dataclass(slots=True)
class Explanation:
    """The event of a notification, or why there is none.

    ``unmatched`` are the traits whose fields hold nothing, ``salvaged`` those that were dropped or
    changed, with the reason. Without an error and an event, no definition matched.
    """

    definition: EventDefinition | None = None
    event: Event | None = None
    error: str | None = None
    unmatched: list[TraitDefinition] = field(default_factory=list)
    salvaged: dict[str, str] = field(default_factory=dict)


def explain(converter: EventConverter, notification: dict[str, Any], priority: str) -> Explanation:
    """Convert a notification, and tell how it went."""
    explanation = Explanation()
    try:
        explanation.definition = converter.definition_of(notification.get("event_type"))
        explanation.event = converter.to_event(notification, priority, log=False)
    except MessageError as error:
        explanation.error = str(error)
    if explanation.definition is None or explanation.event is None:
        return explanation
    for fault in explanation.event.raw.get(SALVAGED_KEY, ()):
        explanation.salvaged[fault["trait"]] = fault["reason"]
    made = {trait.name for trait in explanation.event.traits}
    explanation.unmatched = [
        trait
        for name, trait in explanation.definition.traits.items()
        if name not in made and name not in explanation.salvaged
    ]
    return explanation
