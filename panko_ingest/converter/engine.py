"""From a notification to an event, by the event definitions."""

import datetime
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from panko_ingest import guarded_log, timestamps
from panko_ingest.converter import definitions, values
from panko_ingest.converter.definitions import EventDefinition
from panko_ingest.errors import ConvertError
from panko_ingest.redaction import redact
from panko_ingest.remembered import Remembered
from panko_ingest.storage.models import MAX_NAME, SALVAGED_KEY, UNSTORABLE, Event

LOG = guarded_log.logger_about_messages(__name__)

_MOST_TYPES = 8192
_MOST_SALVAGED = 1024 * 1024
"""Bytes of a notification above which an event with a faulty trait does not keep it."""

_LOG_INTERVAL = 60.0
_MOST_LOGGED = 4096


class EventConverter:
    """Makes events of notifications.

    :param event_definitions: in the order of their file: the last that matches is used.
    :param store_raw: priorities whose events keep the notification, credentials removed.
    :param drop_unmatched: make no events of types that no definition matches, instead of events
        with the default traits.
    :param log: tell the log, once a minute for each event type and trait, what was wrong with a trait.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        event_definitions: Iterable[EventDefinition],
        store_raw: Iterable[str] = (),
        drop_unmatched: bool = False,
        log: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.definitions = list(event_definitions)[::-1]
        if not drop_unmatched and not any(known.types.matches_everything for known in self.definitions):
            self.definitions.append(EventDefinition(["*"], definitions.default_traits()))
        self._store_raw = frozenset(priority.lower() for priority in store_raw)
        self._known = Remembered(self._find_definition, _MOST_TYPES, MAX_NAME)
        self._salvage_log = _SalvageLog(clock) if log else None

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        store_raw: Iterable[str] = (),
        drop_unmatched: bool = False,
        log: bool = True,
    ) -> "EventConverter":
        """Return a converter by the definitions of a file.

        :raises DefinitionError: listing every fault of the file.
        """
        return cls(definitions.load(path), store_raw, drop_unmatched, log)

    def definition_of(self, event_type: Any) -> EventDefinition | None:
        """Return the definition that is used for an event type, None if its notifications are dropped.

        :raises ConvertError: no event can be of this type.
        """
        try:
            return self._known[event_type]
        except TypeError:  # a list or an object
            raise ConvertError("event_type is no text") from None

    def _find_definition(self, event_type: str) -> EventDefinition | None:
        _check_text("event_type", event_type, MAX_NAME)
        return next((known for known in self.definitions if known.types.match(event_type)), None)

    def to_event(
        self, notification: dict[str, Any], priority: str, bytes_held: Callable[[], int] | None = None
    ) -> Event | None:
        """Return the event of a notification, None where the definitions drop it.

        A trait that can't be made is left out or mended; the event then keeps the notification,
        and what was wrong with which trait under ``SALVAGED_KEY``.

        :param notification: in Ceilometer's shape, as ``Notification.message`` is.
        :param priority: in lower case.
        :param bytes_held: tells how much memory the notification takes, of which too much is not kept for a
            fault's sake; None keeps it in any case.
        :raises ConvertError: message_id, event_type or timestamp is missing or unusable.
        """
        definition = self.definition_of(notification.get("event_type"))
        if definition is None:
            return None
        message_id, generated = _identity(notification)
        faults: values.Faults = []
        traits = definition.to_traits(notification, faults)
        raw = {}
        if faults:
            raw = _raw_with(faults, notification, bytes_held)
        elif priority in self._store_raw:
            raw = redact(notification)
        event = Event(message_id, notification["event_type"], generated, traits, raw)
        if faults and self._salvage_log is not None:
            self._salvage_log.write(event, faults)
        return event


def _raw_with(
    faults: values.Faults, notification: dict[str, Any], bytes_held: Callable[[], int] | None
) -> dict[str, Any]:
    salvaged = [{"trait": name, "reason": reason} for name, reason in faults]
    if bytes_held is not None and (held := bytes_held()) > _MOST_SALVAGED:
        reason = f"left out: the notification takes {held} bytes"
        return {SALVAGED_KEY: [*salvaged, {"trait": "raw", "reason": reason}]}
    return {**redact(notification), SALVAGED_KEY: salvaged}


def _identity(notification: dict[str, Any]) -> tuple[str, datetime.datetime]:
    metadata = notification.get("metadata")
    if not isinstance(metadata, dict):
        raise ConvertError("the notification has no metadata")
    message_id: Any = metadata.get("message_id")
    if message_id.__class__ is not str or not message_id or not message_id.isprintable():
        _check_text("message_id", message_id, None)
    timestamp = metadata.get("timestamp")
    if timestamp is None:
        raise ConvertError("timestamp is missing")
    try:
        return message_id, timestamps.parse(timestamp)
    except ValueError as error:
        raise ConvertError(f"timestamp: {error}") from error


def _check_text(name: str, value: Any, most: int | None) -> None:
    if value is None:
        raise ConvertError(f"{name} is missing")
    if not isinstance(value, str):
        raise ConvertError(f"{name} is no text")
    if not value:
        raise ConvertError(f"{name} is empty")
    if most is not None and len(value) > most:
        raise ConvertError(f"{name} has {len(value)} characters, more than {most}")
    if UNSTORABLE.search(value):
        raise ConvertError(f"{name} has characters that no database stores (NUL or half of a surrogate pair)")


class _SalvageLog:
    """One line a minute at most for each event type and trait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next: dict[tuple[str, str], float] = {}

    def write(self, event: Event, faults: values.Faults) -> None:
        now = self._clock()
        for name, reason in faults:
            key = (event.event_type, name)
            if self._next.get(key, now) > now:
                continue
            if len(self._next) >= _MOST_LOGGED:
                self._next.clear()
            self._next[key] = now + _LOG_INTERVAL
            LOG.warning(
                "%s: trait %s %s (message_id %s; said once a minute at most)",
                event.event_type,
                name,
                reason,
                event.message_id,
            )
