"""The one retry layer: a whole transaction is run again, and nothing smaller."""

from collections.abc import Callable
from typing import TypeVar

import tenacity
from sqlalchemy import exc

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.faults import Fault, classify, unavailable
from panko_ingest.storage.settings import Settings

_FIRST_PAUSE = 0.05

T = TypeVar("T")


def run_transaction(
    settings: Settings, work: Callable[[], T], on_retry: Callable[[Fault], None] = lambda _fault: None
) -> T:
    """Return what ``work``, a whole transaction from connecting to COMMIT, returns.

    It is run again after a conflict with another transaction, up to ``max_retries`` times with
    growing, jittered pauses, and once after its connection broke: also at COMMIT, when nobody
    knows whether it took effect, so ``work`` must bear that it did. A server that can't be reached
    is not waited for.

    :param on_retry: called before each further try with what was wrong.
    :raises StorageUnavailable: the store is away or refuses for reasons of its own.
    """
    failures: list[Exception] = []
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - judged below
        failures.append(error)

    # Hardly any transaction comes to this, which takes as long to set up as a short one does to run.
    def again() -> T:
        if failures:
            raise failures.pop()
        return work()

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_Again()),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=settings.retry_interval),
        stop=(
            tenacity.stop_never
            if settings.max_retries < 0
            else tenacity.stop_after_attempt(settings.max_retries + 1)
        ),
        before_sleep=lambda state: on_retry(_fault_of(state)),
        reraise=True,
    )
    try:
        return retrying(again)
    except StorageUnavailable:
        raise
    except Exception as error:
        if classify(error) in {Fault.TRANSIENT, Fault.AWAY, Fault.OPERATOR}:
            raise unavailable(error) from error
        raise


def _fault_of(state: tenacity.RetryCallState) -> Fault:
    error = state.outcome and state.outcome.exception()
    return (error and classify(error)) or Fault.TRANSIENT


class _Again:
    """Decides after each failure of one call whether to try again."""

    def __init__(self) -> None:
        self._reconnected = False

    def __call__(self, error: BaseException) -> bool:
        fault = classify(error)
        if fault is Fault.AWAY and not self._reconnected and _was_connected(error):
            self._reconnected = True
            return True
        return fault is Fault.TRANSIENT


def _was_connected(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    # The driver's own errors reach us only from within COPY.
    return not isinstance(error, exc.SQLAlchemyError)
