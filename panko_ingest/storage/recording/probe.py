"""Proof that the store takes rows: a good event with its traits, and a dead letter, that are rolled back.

A store whose disk is full, which is read-only, or in which ids are used up still answers questions.
"""

import os
import secrets

import sqlalchemy as sa

from panko_ingest.storage.models import DeadLetter, Trait
from panko_ingest.storage.recording.dead_letters import write_dead_letters
from panko_ingest.storage.recording.validation import Row, Validator
from panko_ingest.storage.recording.writers.portable import PortableWriter
from panko_ingest.storage.tables import EventType
from panko_ingest.timestamps import utc_now

_BODY_SIZE = 16 * 1024  # more than is free, as a rule, in the pages that a table has


def write(connection: sa.Connection, writer: PortableWriter, validator: Validator) -> None:
    """Write an event and a dead letter that any store takes; the caller rolls back."""
    name = secrets.token_hex(4)  # short: columns may be narrower than we believe
    now = utc_now()
    # A type that is there: to insert one locks its name, of which there is one for all workers.
    known = connection.execute(sa.select(EventType.desc, EventType.id).limit(1)).all()
    if not known:
        connection.execute(sa.insert(EventType).values(desc=name))
        known = connection.execute(
            sa.select(EventType.desc, EventType.id).where(EventType.desc == name)
        ).all()
    ((event_type, type_id),) = known
    row = Row(
        0,
        name,
        event_type,
        now,
        texts=[Trait("probe", Trait.TEXT_TYPE, "")],
        ints=[Trait("probe", Trait.INT_TYPE, 1)],
        floats=[Trait("probe", Trait.FLOAT_TYPE, 0.5)],
        datetimes=[Trait("probe", Trait.DATETIME_TYPE, now)],
    )
    writer.insert(connection, [row], {event_type: type_id})
    letter = DeadLetter(
        digest=os.urandom(32), body=os.urandom(_BODY_SIZE), stage="record", error_class="Probe", error=""
    )
    write_dead_letters(connection, [letter], validator)
