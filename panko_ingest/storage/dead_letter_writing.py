"""Dead letters into their table, within the transaction of the batch that they came with."""

import datetime
from collections.abc import Iterable
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from panko_ingest.storage.models import DeadLetter as Letter
from panko_ingest.storage.tables import DeadLetter
from panko_ingest.storage.validation import Validator

_NAME = 255
_STAGE = 32
_ERROR = 10_000


def write_dead_letters(connection: sa.Connection, letters: Iterable[Letter], validator: Validator) -> None:
    """Store dead letters; of one that is stored already only ``last_at`` and ``attempts`` change."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    # In one order for all workers: opposite orders deadlock.
    for letter in sorted(letters, key=lambda letter: letter.digest):
        _upsert(connection, _values(letter, validator, now))


def delete_dead_letter(connection: sa.Connection, letter_id: int) -> None:
    """Delete a dead letter; one that is gone already is no error."""
    connection.execute(sa.delete(DeadLetter).where(DeadLetter.id == letter_id))


def _upsert(connection: sa.Connection, values: dict[str, Any]) -> None:
    table = DeadLetter.__table__
    repeat = {"last_at": values["last_at"], "attempts": table.c.attempts + 1}
    dialect = connection.dialect.name
    if dialect == "mysql":
        connection.execute(mysql.insert(DeadLetter).values(values).on_duplicate_key_update(repeat))
    elif dialect in {"postgresql", "sqlite"}:
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        connection.execute(
            insert(DeadLetter).values(values).on_conflict_do_update(index_elements=["digest"], set_=repeat)
        )
    else:
        known = table.c.digest == values["digest"]
        if not connection.execute(sa.update(DeadLetter).where(known).values(repeat)).rowcount:
            connection.execute(sa.insert(DeadLetter).values(values))


def _values(letter: Letter, validator: Validator, now: datetime.datetime) -> dict[str, Any]:
    body, error = letter.body, letter.error
    limit = validator.limits.body_bytes
    if len(body) > limit:
        error = f"{error} (only the first {limit} of its {len(body)} bytes fit into the database)"
        body = body[:limit]
    return {
        "digest": letter.digest,
        "body": body,
        "content_type": _short(letter.content_type, validator),
        "content_encoding": _short(letter.content_encoding, validator),
        "headers": orjson.loads(validator.raw_text(letter.headers)),
        "exchange": _short(letter.exchange, validator),
        "routing_key": _short(letter.routing_key, validator),
        "queue": _short(letter.queue, validator),
        "stage": validator.text(letter.stage, _STAGE),
        "error_class": _short(letter.error_class, validator),
        "error": validator.text(error, _ERROR),
        "message_id": _short(letter.message_id, validator),
        "event_type": _short(letter.event_type, validator),
        "redacted": letter.redacted,
        "first_at": now,
        "last_at": now,
        "attempts": 1,
    }


def _short(value: str | None, validator: Validator) -> str | None:
    return None if value is None else validator.text(value, _NAME)
