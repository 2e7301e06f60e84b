"""The standard load as events: what a worker hands to the storage."""

import datetime
from pathlib import Path

from benchmarks.make_load import lines
from panko_ingest import resources
from panko_ingest.converter import EventConverter
from panko_ingest.storage.models import Event
from tests.bodies import decode

START = datetime.datetime(2024, 3, 1)
DAY = 86400.0

_REFERENCE = Path(__file__).parents[2] / "shared" / "notifications" / "event_definitions.yaml"


def definitions() -> Path:
    """Return the definitions to convert by: the reference ones where they are, so that figures compare."""
    return _REFERENCE if _REFERENCE.exists() else resources.path("etc", "event_definitions.yaml")


def converter() -> EventConverter:
    """Return a converter by these definitions."""
    return EventConverter.from_file(definitions())


def events(count: int, seed: int = 1) -> list[Event]:
    """Return the first so many events of the standard load."""
    converting = converter()
    found = []
    for line in lines(count, seed, START, DAY):
        notification = decode(line.encode())
        event = converting.to_event(notification.message, notification.priority)
        if event is not None:
            found.append(event)
    return found
