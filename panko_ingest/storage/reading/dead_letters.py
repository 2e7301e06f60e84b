"""Reading dead letters; what writes them is the recording of a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import sqlalchemy as sa

from panko_ingest.storage import request_values
from panko_ingest.storage.filters import DeadLetterFilter
from panko_ingest.storage.models import DeadLetter, DeadLetterSummary, StoredDeadLetter
from panko_ingest.storage.reading import paging
from panko_ingest.storage.reading.read_access import ReadAccess
from panko_ingest.storage.tables import DeadLetter as DeadLetterRow

_BATCH = 200
_MOST_BYTES = 32 * 1024 * 1024
"""Of bodies that are read at once, or deleted in one transaction, which on a cluster holds them."""
_FIELDS = [field.name for field in fields(DeadLetter)]
_SUMMARY = [field.name for field in fields(DeadLetterSummary)]


def summaries(
    reader: ReadAccess, which: DeadLetterFilter, limit: int | None = None
) -> Iterator[DeadLetterSummary]:
    """Yield what can be listed of dead letters, the one seen last first.

    :raises StorageUnavailable: the store can't be read.
    """
    for page in _pages(reader, which, limit):
        yield from page


def _pages(
    reader: ReadAccess, which: DeadLetterFilter, limit: int | None
) -> Iterator[list[DeadLetterSummary]]:
    columns = [getattr(DeadLetterRow, name) for name in _SUMMARY if name != "size"]
    statement = (
        sa.select(*columns, sa.func.length(DeadLetterRow.body).label("size"))
        .where(*conditions(which))
        .order_by(DeadLetterRow.last_at.desc(), DeadLetterRow.id.desc())
    )
    after: list[sa.ColumnElement[bool]] = []
    remaining = None if limit is None else request_values.count(limit, "limit")
    while remaining is None or remaining > 0:
        size = _BATCH if remaining is None else min(_BATCH, remaining)
        rows = reader.rows(statement.where(*after).limit(size))
        yield [DeadLetterSummary(**row._mapping) for row in rows]
        if len(rows) < size:
            return
        remaining = None if remaining is None else remaining - size
        last = rows[-1]
        after = [
            DeadLetterRow.last_at <= last.last_at,
            sa.or_(DeadLetterRow.last_at < last.last_at, DeadLetterRow.id < last.id),
        ]


def get(reader: ReadAccess, letter_id: int) -> StoredDeadLetter | None:
    """Return one dead letter with its body; None where there is none with this id.

    :raises StorageUnavailable: the store can't be read.
    """
    return next(iter(_with_bodies(reader, [request_values.integer(letter_id, "id")])), None)


def stored(reader: ReadAccess, which: DeadLetterFilter) -> Iterator[StoredDeadLetter]:
    """Yield dead letters with their bodies, the one seen last first.

    They are read several at once. Of those that are gone by then nothing is yielded.

    :raises StorageUnavailable: the store can't be read.
    """
    for page in _pages(reader, which, None):
        pending = page
        while pending:
            number = fitting([summary.size for summary in pending])
            ids = [summary.id for summary in pending[:number]]
            found = {letter.id: letter for letter in _with_bodies(reader, ids)}
            yield from (found[one] for one in ids if one in found)
            pending = pending[number:]


def _with_bodies(reader: ReadAccess, ids: Sequence[int]) -> list[StoredDeadLetter]:
    columns = [getattr(DeadLetterRow, name) for name in ("id", "first_at", "last_at", "attempts", *_FIELDS)]
    found = []
    for row in reader.rows(sa.select(*columns).where(DeadLetterRow.id.in_(ids))):
        values = dict(row._mapping)
        letter = DeadLetter(**{name: values.pop(name) for name in _FIELDS})
        found.append(StoredDeadLetter(**values, letter=letter))
    return found


def count(reader: ReadAccess, which: DeadLetterFilter) -> int:
    """Return how many dead letters there are.

    :raises StorageUnavailable: the store can't be read.
    """
    statement = sa.select(sa.func.count()).select_from(DeadLetterRow).where(*conditions(which))
    (number,) = reader.values(statement)
    return int(number)


def count_by_stage(reader: ReadAccess) -> dict[str, int]:
    """Return how many dead letters there are of each stage, in one reading of the table: no index has it.

    :raises StorageUnavailable: the store can't be read.
    """
    stage = DeadLetterRow.stage
    found = reader.rows(sa.select(stage, sa.func.count().label("number")).group_by(stage))
    return {row.stage: row.number for row in found}


def fitting(sizes: Sequence[int]) -> int:
    """Return how many dead letters of these sizes, in bytes, are dealt with at once: one at least."""
    return paging.fitting(sizes, _MOST_BYTES)


def by_id(which: DeadLetterFilter) -> list[sa.ColumnElement[bool]]:
    """Return that part of a filter which an index serves."""
    ids = [request_values.integer(one, "id") for one in which.ids]
    # As text: a statement has 65,535 parameters at most.
    these = sa.bindparam("letters", ids, sa.BigInteger, expanding=True, literal_execute=True)
    return [DeadLetterRow.id.in_(these)] if ids else []


def conditions(which: DeadLetterFilter) -> list[sa.ColumnElement[bool]]:
    """Return all of a filter."""
    row = DeadLetterRow
    found = by_id(which)
    if which.stage is not None:
        found.append(row.stage == request_values.filled(which.stage, "stage"))
    if which.event_type is not None:
        glob = _like(request_values.filled(which.event_type, "type"))
        found.append(row.event_type.like(glob, escape="~"))
    if which.error is not None:
        error = request_values.filled(which.error, "error")
        found.append(
            sa.or_(
                row.error_class.contains(error, autoescape=True), row.error.contains(error, autoescape=True)
            )
        )
    if which.seen_since is not None:
        found.append(row.last_at >= request_values.moment(which.seen_since, "seen_since"))
    if which.seen_before is not None:
        found.append(row.last_at < request_values.moment(which.seen_before, "seen_before"))
    return found


def _like(glob: str) -> str:
    escaped = "".join(f"~{character}" if character in "~%_" else character for character in glob)
    return escaped.replace("*", "%").replace("?", "_")
