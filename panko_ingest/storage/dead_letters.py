"""Reading and deleting dead letters; what writes them is the recording of a batch."""

from collections.abc import Iterator
from dataclasses import fields

import sqlalchemy as sa

from panko_ingest.storage import faults
from panko_ingest.storage.base import DeadLetterFilter
from panko_ingest.storage.engine import write_transaction
from panko_ingest.storage.models import DeadLetter, DeadLetterSummary, StoredDeadLetter
from panko_ingest.storage.reading import Reader
from panko_ingest.storage.tables import DeadLetter as DeadLetterRow

_BATCH = 200
_FIELDS = [field.name for field in fields(DeadLetter)]
_SUMMARY = [field.name for field in fields(DeadLetterSummary)]


def summaries(
    reader: Reader, which: DeadLetterFilter, limit: int | None = None
) -> Iterator[DeadLetterSummary]:
    """Yield what can be listed of dead letters, the one seen last first.

    :raises StorageUnavailable: the store can't be read.
    """
    columns = [getattr(DeadLetterRow, name) for name in _SUMMARY if name != "size"]
    statement = (
        sa.select(*columns, sa.func.length(DeadLetterRow.body).label("size"))
        .where(*_conditions(which))
        .order_by(DeadLetterRow.last_at.desc(), DeadLetterRow.id.desc())
    )
    after: list[sa.ColumnElement[bool]] = []
    remaining = limit
    while remaining is None or remaining > 0:
        size = _BATCH if remaining is None else min(_BATCH, remaining)
        rows = reader.rows(statement.where(*after).limit(size))
        yield from (DeadLetterSummary(**row._mapping) for row in rows)
        if len(rows) < size:
            return
        remaining = None if remaining is None else remaining - size
        last = rows[-1]
        after = [
            DeadLetterRow.last_at <= last.last_at,
            sa.or_(DeadLetterRow.last_at < last.last_at, DeadLetterRow.id < last.id),
        ]


def get(reader: Reader, letter_id: int) -> StoredDeadLetter | None:
    """Return one dead letter with its body; None where there is none with this id.

    :raises StorageUnavailable: the store can't be read.
    """
    columns = [getattr(DeadLetterRow, name) for name in ("id", "first_at", "last_at", "attempts", *_FIELDS)]
    for row in reader.rows(sa.select(*columns).where(DeadLetterRow.id == letter_id)):
        values = dict(row._mapping)
        letter = DeadLetter(**{name: values.pop(name) for name in _FIELDS})
        return StoredDeadLetter(**values, letter=letter)
    return None


def count(reader: Reader, which: DeadLetterFilter) -> int:
    """Return how many dead letters there are.

    :raises StorageUnavailable: the store can't be read.
    """
    statement = sa.select(sa.func.count()).select_from(DeadLetterRow).where(*_conditions(which))
    (number,) = reader.values(statement)
    return int(number)


def delete(engine: sa.Engine, which: DeadLetterFilter) -> int:
    """Delete dead letters, a few hundred a transaction, and return how many.

    :raises StorageUnavailable: the store can't be written to; what was deleted before stays so.
    """
    deleted = 0
    batch = sa.select(DeadLetterRow.id).where(*_conditions(which)).order_by(DeadLetterRow.id).limit(_BATCH)
    while True:
        try:
            with write_transaction(engine) as connection:
                ids = connection.scalars(batch).all()
                connection.execute(sa.delete(DeadLetterRow).where(DeadLetterRow.id.in_(ids)))
        except sa.exc.SQLAlchemyError as error:
            raise faults.unavailable(error) from error
        deleted += len(ids)
        if len(ids) < _BATCH:
            return deleted


def _conditions(which: DeadLetterFilter) -> list[sa.ColumnElement[bool]]:
    row = DeadLetterRow
    conditions: list[sa.ColumnElement[bool]] = []
    if which.ids:
        conditions.append(row.id.in_(which.ids))
    if which.stage:
        conditions.append(row.stage == which.stage)
    if which.event_type:
        conditions.append(row.event_type.like(_like(which.event_type), escape="~"))
    if which.error:
        conditions.append(
            sa.or_(
                row.error_class.contains(which.error, autoescape=True),
                row.error.contains(which.error, autoescape=True),
            )
        )
    if which.seen_since:
        conditions.append(row.last_at >= which.seen_since)
    if which.seen_before:
        conditions.append(row.last_at < which.seen_before)
    return conditions


def _like(glob: str) -> str:
    escaped = "".join(f"~{character}" if character in "~%_" else character for character in glob)
    return escaped.replace("*", "%").replace("?", "_")
