import pymysql
import pytest
from sqlalchemy.exc import OperationalError

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.settings import StorageSettings
from tests.unit.clock import Clock


class Transaction:
    """One that loses its connection after so many seconds, as often as there are any."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        self.tries = 0
        self._clock = clock
        self._seconds = list(seconds)

    def __call__(self) -> str:
        self.tries += 1
        if not self._seconds:
            return "stored"
        self._clock.now += self._seconds.pop(0)
        lost = pymysql.OperationalError(2013, "Lost connection to MySQL server during query")
        raise OperationalError("INSERT", None, lost, connection_invalidated=True)


def test_a_connection_that_breaks_at_once_is_replaced_once() -> None:
    clock = Clock()
    transaction = Transaction(clock, 0.1)
    assert run_transaction(StorageSettings(), transaction, clock=clock) == "stored"

    transaction = Transaction(clock, 0.1, 0.1, 0.1)
    with pytest.raises(StorageUnavailable, match="2013"):
        run_transaction(StorageSettings(), transaction, clock=clock)
    assert transaction.tries == 2


def test_a_server_that_hung_until_the_time_was_over_is_not_waited_for_again() -> None:
    clock = Clock()
    transaction = Transaction(clock, 70.0)
    with pytest.raises(StorageUnavailable, match="2013"):
        run_transaction(StorageSettings(), transaction, clock=clock)
    assert transaction.tries == 1
