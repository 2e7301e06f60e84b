"""What an error of a database means: by the codes of its server, not by exception class.

Drivers disagree on classes: the same 1366 is a DataError with PyMySQL and an OperationalError with
mysqlclient. What the server says is the same everywhere; what its codes mean is in its database's module.
"""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import exc

from panko_ingest.storage.database.base import Code, Database
from panko_ingest.storage.database.registry import databases
from panko_ingest.storage.errors import ErrorClass, StorageConflict, StorageError, StorageUnavailable

_BAD_VALUE = (ValueError, TypeError, OverflowError, ArithmeticError)


def classify(error: BaseException) -> ErrorClass | None:
    """Return what an error from a database call means; None for one that is no database's."""
    cause = original(error)
    if isinstance(cause, StorageConflict):
        return ErrorClass.TRANSIENT
    if isinstance(cause, _BAD_VALUE):
        return ErrorClass.PERMANENT  # the driver could not even send it
    meanings = (database.meaning_of(cause) for database in databases())
    return next((meaning for meaning in meanings if meaning), None) or _by_class(cause)


def original(error: BaseException) -> BaseException:
    """Return the driver's own error beneath SQLAlchemy's."""
    return error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error


def is_a_databases(error: BaseException) -> bool:
    """Tell whether an error is a database's, its driver's or SQLAlchemy's."""
    cause = original(error)
    return isinstance(error, exc.SQLAlchemyError) or any(
        database.code_of(cause) is not None for database in databases()
    )


def needs_new_connection(error: BaseException | None) -> bool:
    """Tell whether the session behind a driver's error will never write again, though it may still answer."""
    # An operator's trigger may say so of a row.
    if error is None or classify(error) is ErrorClass.PERMANENT:
        return False
    return _is_one_of(error, lambda database: database.cannot_write_again)


def is_clash(error: BaseException | None) -> bool:
    """Tell whether a row was refused because a unique index has its value already."""
    return error is not None and _is_one_of(error, lambda database: database.clash)


def is_lock_wait(error: BaseException) -> bool:
    """Tell whether somebody else had locked what a statement needs for longer than one waits."""
    return _is_one_of(error, lambda database: database.lock_wait)


def is_not_allowed(error: BaseException) -> bool:
    """Tell whether a statement was refused because the account has no right to it."""
    return _is_one_of(error, lambda database: database.not_allowed)


def is_unknown_event_type(error: BaseException) -> bool:
    """Tell whether an event was refused because its type is not there."""
    cause = original(error)
    return _is_one_of(error, lambda database: database.broken_reference) and any(
        database.is_about_event_type(cause) for database in databases()
    )


def is_fault_of_ids(error: BaseException) -> bool:
    """Tell whether a row was refused for the id that it was given: there is such a one, or none is left."""
    cause = original(error)
    statement = (isinstance(error, exc.StatementError) and error.statement) or ""
    return any(database.is_fault_of_ids(cause, statement) for database in databases())


def _is_one_of(error: BaseException, codes: Callable[[Database], frozenset[Code]]) -> bool:
    cause = original(error)
    return any(database.code_of(cause) in codes(database) for database in databases())


def unavailable(error: BaseException) -> StorageUnavailable:
    """Return what the caller gets to see when the store can't be used."""
    operator = classify(error) is ErrorClass.OPERATOR
    text = describe(error)
    if help_ := remedy(error):
        text += f" ({help_})"
    elif operator and any(database.refuses_login(original(error)) for database in databases()):
        text += " (check user, password and name of the database in its URL)"
    elif operator:
        text += " (is the schema there and the role allowed to use it? `panko-ingest db sync` makes it)"
    return StorageUnavailable(text, operator=operator)


def remedy(error: BaseException) -> str:
    """Return what an operator has to do about an error that looks like a missing right, and is none."""
    return next(filter(None, (database.remedy(original(error)) for database in databases())), "")


def refused(error: BaseException) -> StorageError:
    """Return what the caller gets to see for an event that the database will never accept."""
    return StorageError(describe(error))


def describe(error: BaseException) -> str:
    """Return the server's own words and code in one line, without statement or parameters."""
    cause = original(error)
    if isinstance(cause, exc.NoSuchTableError):
        return f"there is no table {cause}"
    told = (database.words_of(cause) for database in databases())
    words = next((words for words in told if words), str(cause))
    return " ".join(words.split()) or type(cause).__name__


def _by_class(error: BaseException) -> ErrorClass | None:
    """Judge an error that carries no code: mostly of drivers themselves."""
    if isinstance(error, exc.NoSuchTableError):
        return ErrorClass.OPERATOR
    if isinstance(error, exc.TimeoutError | exc.DisconnectionError):
        return ErrorClass.AWAY
    names = {base.__name__ for base in _dbapi_bases(error)}
    if names & {"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"}:
        return ErrorClass.PERMANENT
    if names & {"OperationalError", "InterfaceError", "InternalError", "DatabaseError"}:
        return ErrorClass.AWAY  # unknown: keeping the data is always right
    return ErrorClass.AWAY if isinstance(error, OSError) else None


def _dbapi_bases(error: BaseException) -> Iterator[type[Any]]:
    return (base for base in type(error).__mro__ if not base.__module__.startswith("builtins"))
