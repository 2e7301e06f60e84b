"""Whose fault it is that a batch is refused: a row's, which then is found, or the store's.

The search goes on within one transaction, by savepoints, for what the database refuses and for what nobody
foresaw alike. What divides over several transactions asks :func:`may_be_a_rows`.

A refusal is a row's only where others pass. The store's is, whatever it looks like, a clash of a new id with
one that is there (a sequence behind its table, after a restore or a failover), ids used up, a reference to an
event type that is not there (yet: another node of a cluster has it), and what a good row meets as well.
"""

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from panko_ingest import guarded_log
from panko_ingest.storage.database import error_classes
from panko_ingest.storage.errors import ErrorClass, StorageConflict, StorageError, StorageUnavailable

LOG = guarded_log.logger_about_messages(__name__)

T = TypeVar("T")


def may_be_a_rows(error: Exception) -> bool:
    """Tell whether an error may come of what a row holds: it was refused for good, or nobody foresaw it."""
    if isinstance(error, StorageUnavailable):
        return False
    return error_classes.classify(error) in {ErrorClass.PERMANENT, None}


def raise_if_of_the_store(error: Exception) -> None:
    """Raise what the caller is to see of an error that is never a row's, though it looks like it."""
    what = error_classes.describe(error)
    if error_classes.is_unknown_event_type(error):
        raise StorageConflict(what) from error
    if error_classes.is_fault_of_ids(error):
        raise StorageUnavailable(
            f"{what} (new ids clash with those that are there, or are used up: after a restore or a failover "
            "set the sequence beyond the largest id; `panko-ingest db sync` makes 32-bit ids 64-bit)",
            operator=True,
        ) from error


def find(
    connection: sa.Connection,
    rows: list[T],
    write: Callable[[list[T]], None],
    on_refusal: Callable[[T, Exception], None],
    raise_if_of_the_store: Callable[[Exception], None] = raise_if_of_the_store,
) -> list[T]:
    """Write rows by halves, each within a savepoint, until those at fault are alone.

    :param write: writes all of the rows, or raises why not.
    :param on_refusal: takes each row that can't be written, and why.
    :param raise_if_of_the_store: raises what is to be seen of an error that looks like a row's, and is none.
    :returns: the rows that were written.
    :raises StorageUnavailable: the fault is the store's.
    :raises StorageConflict: the same, and the transaction may succeed when it is run again.
    """
    savepoint = connection.begin_nested()
    try:
        write(rows)
    except Exception as error:
        raise_if_of_the_store(error)
        if not may_be_a_rows(error):
            raise  # what else went wrong may have ended the transaction, and its savepoints
        savepoint.rollback()
        if len(rows) == 1:
            on_refusal(rows[0], error)
            return []
    else:
        savepoint.commit()
        return rows
    middle = len(rows) // 2
    return [
        *find(connection, rows[:middle], write, on_refusal, raise_if_of_the_store),
        *find(connection, rows[middle:], write, on_refusal, raise_if_of_the_store),
    ]


def raise_if_none_passes(
    connection: sa.Connection, prove: Callable[[sa.Connection], None], *, others_passed: bool
) -> None:
    """Raise if the refusal of rows is the store's: it refuses a row that is known to be good as well.

    :param prove: writes such a row; it is rolled back.
    :param others_passed: whether rows were stored in this transaction.
    :raises StorageUnavailable: the fault is the store's.
    """
    savepoint = connection.begin_nested()
    try:
        prove(connection)
    except Exception as error:
        raise_if_of_the_store(error)
        if not may_be_a_rows(error):
            raise
        savepoint.rollback()
        if not others_passed:
            what = f"{error_classes.describe(error)} (an event that is known to be good is refused as well)"
            raise StorageUnavailable(what, operator=True) from error
    else:
        savepoint.rollback()


def as_refusal(error: Exception) -> Exception:
    """Return what the caller gets to see for an event that can't be stored."""
    if isinstance(error, StorageError):
        return error
    if error_classes.classify(error) is None:
        LOG.error("Unforeseen error while an event was recorded: it fails alone", exc_info=error)
        return error
    return error_classes.refused(error)
