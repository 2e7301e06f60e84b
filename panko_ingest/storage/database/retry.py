"""The one retry layer around rows: a whole transaction is run again, and nothing smaller.

What changes the schema needs the tables for itself and is patient in ways of its own:
``schema/upgrades.py`` and ``schema/partition_ddl.py:patiently``.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, exc

from panko_ingest.backoff import pauses
from panko_ingest.storage.database.error_classes import classify, unavailable
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.settings import StorageSettings

_FIRST_PAUSE = 0.05
# Of statement_timeout. A connection that breaks later was no stale one: its server hangs, and would again.
_PROMPT_SHARE = 0.5
_PROMPT = 30.0

T = TypeVar("T")


def run_transaction(
    settings: StorageSettings,
    work: Callable[[], T],
    on_retry: Callable[[ErrorClass], None] = lambda _fault: None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Return what ``work``, a whole transaction from connecting to COMMIT, returns.

    It is run again after a conflict with another transaction, up to ``max_retries`` times with
    growing, jittered pauses, and once after its connection soon broke: also at COMMIT, when nobody
    knows whether it took effect, so ``work`` must bear that it did. A server that can't be reached,
    or did not answer until a time limit was over, is not waited for.

    :param on_retry: called before each further try with what was wrong.
    :param clock: monotonic seconds.
    :raises StorageUnavailable: the store is away or refuses for reasons of its own.
    """
    prompt = settings.statement_timeout * _PROMPT_SHARE or _PROMPT
    reconnected = False
    waits = pauses(_FIRST_PAUSE, settings.retry_interval)
    tries = 0
    while True:
        tries += 1
        began = clock()
        try:
            return work()
        except Exception as error:
            fault = classify(error)
            broke = fault is ErrorClass.AWAY and _was_connected(error) and clock() - began < prompt
            again = fault is ErrorClass.TRANSIENT or (broke and not reconnected)
            if fault is None or fault is ErrorClass.PERMANENT:
                raise
            if not again or 0 <= settings.max_retries < tries:
                raise unavailable(error) from error
        reconnected |= broke
        on_retry(fault)
        time.sleep(next(waits))


def read(engine: Engine, settings: StorageSettings, work: Callable[[Connection], T]) -> T:
    """Return what ``work`` finds in one transaction, which is run again as :func:`run_transaction` does it.

    :raises StorageUnavailable: the store can't be read.
    """

    def once() -> T:
        with engine.connect() as connection:
            return work(connection)

    try:
        return run_transaction(settings, once)
    except exc.SQLAlchemyError as error:
        raise unavailable(error) from error


def _was_connected(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    # The driver's own errors reach us only from a connection that is open already.
    return not isinstance(error, exc.SQLAlchemyError)
