"""The one retry layer: a whole transaction is run again, and nothing smaller."""

import time
from collections.abc import Callable
from typing import TypeVar

import tenacity
from sqlalchemy import exc

from panko_ingest.storage.errors import StorageUnavailable
from panko_ingest.storage.faults import Fault, classify, unavailable
from panko_ingest.storage.settings import Settings

_FIRST_PAUSE = 0.05
# Of statement_timeout. A connection that breaks later was no stale one: its server hangs, and would again.
_PROMPT_SHARE = 0.5
_PROMPT = 30.0

T = TypeVar("T")


def run_transaction(
    settings: Settings,
    work: Callable[[], T],
    on_retry: Callable[[Fault], None] = lambda _fault: None,
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
    judge = _Again(settings.statement_timeout * _PROMPT_SHARE or _PROMPT, clock)
    failures: list[Exception] = []
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - judged below
        failures.append(error)

    # Hardly any transaction comes to this, which takes as long to set up as a short one does to run.
    def again() -> T:
        if failures:
            raise failures.pop()
        judge.begin()
        return work()

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(judge),
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

    def __init__(self, prompt: float, clock: Callable[[], float]) -> None:
        self._prompt = prompt
        self._clock = clock
        self._began = clock()
        self._reconnected = False

    def begin(self) -> None:
        """Note that a try begins."""
        self._began = self._clock()

    def __call__(self, error: BaseException) -> bool:
        fault = classify(error)
        prompt = self._clock() - self._began < self._prompt
        if fault is Fault.AWAY and prompt and not self._reconnected and _was_connected(error):
            self._reconnected = True
            return True
        return fault is Fault.TRANSIENT


def _was_connected(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    # The driver's own errors reach us only from a connection that is open already.
    return not isinstance(error, exc.SQLAlchemyError)
