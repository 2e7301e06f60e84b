"""Dead letters into their table, within the transaction of the batch that they came with."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa

from panko_ingest import exact_json
from panko_ingest.storage.database import base as databases, clocks, fault_search
from panko_ingest.storage.database.error_classes import describe
from panko_ingest.storage.errors import StorageError, StorageUnavailable
from panko_ingest.storage.models import MAX_NAME, DeadLetter as Letter
from panko_ingest.storage.recording.validation import Validator
from panko_ingest.storage.tables import DeadLetter, PreciseTimestamp
from panko_ingest.timestamps import utc_now

_STAGE = 32
_ERROR = 10_000
_TOLD = " (only the first {} of its {} bytes fit into the database)"
_TOLD_BEFORE = re.compile(re.escape(_TOLD).replace(r"\{\}", r"(\d+)") + "$")


def write_dead_letters(connection: sa.Connection, letters: Sequence[Letter], validator: Validator) -> None:
    """Store dead letters; of one that is stored already only ``last_at`` and ``attempts`` change."""
    if not letters:
        return
    # Expiry goes by the server's clock: by one that is behind, a letter of now would be too old to stay.
    now = max(utc_now(), clocks.of_server(connection))
    last_at = sa.case((DeadLetter.last_at < now, sa.literal(now, PreciseTimestamp)), else_=DeadLetter.last_at)
    # In one order for all workers: opposite orders deadlock.
    for letter in sorted(letters, key=lambda letter: letter.digest):
        row = _values(letter, validator, now)
        body, part = row["body"], validator.limits.packet_bytes // 2
        repeat = {"last_at": last_at, "attempts": DeadLetter.attempts + 1}
        first = row | {"body": body[:part]}
        databases.of(connection).insert_or_update(connection, DeadLetter, first, "digest", repeat)
        for start in range(part, len(body), part):
            _append(connection, letter.digest, start, body[start : start + part])


def write_dead_letters_that_can_be(
    connection: sa.Connection, letters: Sequence[Letter], validator: Validator
) -> None:
    """Store dead letters of which some can't be stored as they are: these go without headers, in ASCII.

    :raises StorageUnavailable: not even that can be stored.
    """
    refused: list[tuple[Letter, Exception]] = []

    def write(part: list[Letter]) -> None:
        write_dead_letters(connection, part, validator)

    if letters:
        fault_search.find(connection, list(letters), write, lambda *found: refused.append(found))
    bare = [
        _in_ascii(
            replace(letter, headers={}, error=f"{letter.error} (its headers are left out: {describe(error)})")
        )
        for letter, error in refused
    ]
    try:
        write(bare)
    except Exception as error:
        if not fault_search.may_be_a_rows(error):
            raise
        what = f"a dead letter can't be stored: {describe(error)}"
        raise StorageUnavailable(what, operator=True) from error


def _in_ascii(letter: Letter) -> Letter:
    """Return a dead letter whose texts any column can hold."""
    escaped: dict[str, Any] = {
        field.name: value.encode("ascii", "backslashreplace").decode()
        for field in fields(letter)
        if isinstance(value := getattr(letter, field.name), str)
    }
    return replace(letter, **escaped)


def delete_dead_letters(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Delete dead letters; one that is gone already is no error.

    :raises StorageError: a trigger or a rule keeps one without a word.
    """
    if not ids:
        return
    these = DeadLetter.id.in_(ids)
    deleted = connection.execute(sa.delete(DeadLetter).where(these)).rowcount
    if deleted != len(ids) and connection.scalars(sa.select(DeadLetter.id).where(these).limit(1)).first():
        raise StorageError("a trigger keeps the dead letter without a word")


def _append(connection: sa.Connection, digest: bytes, start: int, part: bytes) -> None:
    """Add to a body, unless it is all there already.

    PyMySQL writes bytes in hexadecimal digits, so that a statement takes half of what a row may have.
    """
    more = sa.bindparam("more", part, sa.LargeBinary)
    connection.execute(
        sa.update(DeadLetter)
        .where(DeadLetter.digest == digest, sa.func.length(DeadLetter.body) == start)
        .values(body=sa.func.concat(DeadLetter.body, more))
    )


def _values(letter: Letter, validator: Validator, now: datetime.datetime) -> dict[str, Any]:
    # Of a copy of what was cut already, it is told once, and counts for no room: what fitted fits again.
    told_before = _TOLD_BEFORE.search(letter.error)
    own_error = letter.error[: told_before.start()] if told_before else letter.error
    values = {
        "digest": letter.digest,
        "content_type": _short(letter.content_type, validator),
        "content_encoding": _short(letter.content_encoding, validator),
        "headers": exact_json.loads(validator.raw_text(letter.headers)),
        "exchange": _short(letter.exchange, validator),
        "routing_key": _short(letter.routing_key, validator),
        "queue": _short(letter.queue, validator),
        "stage": validator.text(letter.stage, _STAGE),
        "error_class": _short(letter.error_class, validator),
        "error": validator.text(own_error, _ERROR),
        "message_id": _short(letter.message_id, validator),
        "event_type": _short(letter.event_type, validator),
        "redacted": letter.redacted,
        "attempts": 1,
    }
    room = validator.limits.packet_bytes - sum(len(str(value).encode()) for value in values.values())
    if len(letter.body) > room:
        told = _TOLD.format(room, told_before[2] if told_before else len(letter.body))
        values["error"] = validator.text(own_error, _ERROR - len(told)) + told
    else:
        values["error"] = validator.text(letter.error, _ERROR)
    # As text, a time is shorter now and then, and a copy of what just fitted is to fit.
    values |= {"first_at": now, "last_at": now, "body": letter.body[: max(0, room)]}
    return values


def _short(value: str | None, validator: Validator) -> str | None:
    return None if value is None else validator.text(value, MAX_NAME)
