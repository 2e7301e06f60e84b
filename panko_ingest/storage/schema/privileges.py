"""What the account that we use in the database may do, found out by statements that change nothing."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from panko_ingest.findings import FAILURE, OK, Finding
from panko_ingest.storage.database import base as databases, error_classes, leases
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.tables import TRAITS, DeadLetter, Event, EventType

_WRITTEN = (EventType, Event, *TRAITS, DeadLetter)
_DELETED = (Event, *TRAITS, DeadLetter)
_WITH_IDS = ("event_type", "event", "dead_letter")

_Wanted = tuple[str, sa.Executable]


def check(engine: sa.Engine, *, to_record: bool, to_expire: bool) -> Iterator[Finding]:
    """Yield what was found about the rights that recording and expiry need, good or bad.

    :raises StorageUnavailable: the store can't be reached.
    """
    wanted: list[_Wanted] = []
    if to_record:
        wanted += [("INSERT on " + table.__tablename__, _insert_nothing(table)) for table in _WRITTEN]
        wanted.append(("UPDATE on dead_letter", sa.update(DeadLetter).where(sa.false()).values(attempts=1)))
    if to_expire:
        wanted += [
            ("DELETE on " + table.__tablename__, sa.delete(table).where(sa.false())) for table in _DELETED
        ]
    try:
        with engine.connect() as connection:
            if to_expire and sa.inspect(connection).has_table(leases.TABLE):
                nothing = sa.update(leases.LEASES).where(sa.false()).values(ends=0.0)
                wanted.append((f"UPDATE on {leases.TABLE}", nothing))
            tried = {name: _refusal(connection, statement) for name, statement in wanted}
            errors = {name: refusal for name, refusal in tried.items() if refusal}
            missing = [name for name, refusal in errors.items() if error_classes.is_not_allowed(refusal)]
            there = len(missing) == len(errors)  # or a table may not be there to ask about
            if there and to_record:
                missing += databases.of(connection).missing_rights(connection, _WITH_IDS)
            if there and to_expire:
                missing += databases.of(connection).missing_rights_to_expire(connection)
            connection.rollback()
    except sa.exc.SQLAlchemyError as error:
        raise error_classes.unavailable(error) from error
    jobs = " and ".join([*["record"] * to_record, *["expire"] * to_expire])
    others = [str(error_classes.unavailable(errors[name])) for name in errors if name not in missing]
    for text in dict.fromkeys(others):
        yield Finding(FAILURE, "tables", text)
    if missing:
        yield Finding(FAILURE, "rights", f"to {jobs}, the role lacks {', '.join(missing)}: grant it")
    elif not others:
        yield Finding(OK, "rights", f"the role may {jobs}")


def _insert_nothing(table: Any) -> sa.Executable:
    columns = [column for column in table.__table__.columns if column.name != "id"]
    nothing = sa.select(*(sa.null() for _ in columns)).where(sa.false())
    return sa.insert(table).from_select(columns, nothing)


def _refusal(connection: sa.Connection, statement: sa.Executable) -> sa.exc.SQLAlchemyError | None:
    """Try a statement that touches no row; return how it was refused."""
    try:
        with connection.begin_nested():
            connection.execute(statement)
    except sa.exc.SQLAlchemyError as error:
        if error_classes.classify(error) is not ErrorClass.OPERATOR:
            raise
        return error
    return None
