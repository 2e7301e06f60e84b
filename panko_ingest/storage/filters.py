"""Which events, and which dead letters, a question is about."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panko_ingest.storage import request_values
from panko_ingest.storage.errors import InvalidRequest


class EventFilter:
    """Which events to read, after ``panko.storage.EventFilter``.

    :param start_timestamp: oldest ``generated``, inclusive: a datetime or ISO 8601 text, in UTC where it has
        no zone. Kept as naive UTC.
    :param end_timestamp: newest ``generated``, inclusive, likewise.
    :param event_type: one name, or several of which any may hold: with an empty list, no event does.
    :param traits_filter: ``{"key": k, "string"|"integer"|"float"|"datetime": value, "op": op}`` each,
        with op one of eq, lt, le, ne, gt, ge (eq where absent); all must hold. ``"any": text`` in the
        place of a type stands for every type that the text can be read as.
    :param admin_proj: a project id: events whose ``project_id`` trait is another project's are
        left out, those without the trait are kept.
    :param salvaged: only events that had to be salvaged: ``SALVAGED_KEY`` is in their raw.
    :raises InvalidRequest: a time is none, or ``traits_filter`` no list of mappings.
    """

    def __init__(
        self,
        start_timestamp: datetime.datetime | str | None = None,
        end_timestamp: datetime.datetime | str | None = None,
        event_type: str | Sequence[str] | None = None,
        message_id: str | None = None,
        traits_filter: Sequence[Mapping[str, Any]] | None = None,
        admin_proj: str | None = None,
        *,
        salvaged: bool = False,
    ) -> None:
        self.start_timestamp = _moment("start_timestamp", start_timestamp)
        self.end_timestamp = _moment("end_timestamp", end_timestamp)
        self.event_type = event_type
        self.message_id = message_id
        self.traits_filter = request_values.mappings(traits_filter or (), "traits_filter")
        self.admin_proj = admin_proj
        self.salvaged = salvaged

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value)
        return f"EventFilter({fields})"


def _moment(name: str, value: datetime.datetime | str | None) -> datetime.datetime | None:
    return request_values.moment(value, name) if value else None


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters; all conditions that are set must hold.

    :param event_type: a glob: ``*`` and ``?``.
    :param error: a part of the error's class or text.
    :param seen_since: last seen at this time or after it, naive UTC.
    :param seen_before: last seen before this time, naive UTC.
    :raises InvalidRequest: ``ids`` are no list.
    """

    ids: Sequence[int] = ()
    stage: str | None = None
    event_type: str | None = None
    error: str | None = None
    seen_since: datetime.datetime | None = None
    seen_before: datetime.datetime | None = None

    def __post_init__(self) -> None:
        """Keep the ids, which may come from an iterator: without them the filter names all."""
        if not isinstance(self.ids, Iterable):
            raise InvalidRequest(f"ids: {self.ids!r} is no list of integers")
        object.__setattr__(self, "ids", tuple(self.ids))
