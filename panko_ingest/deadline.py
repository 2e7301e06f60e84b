"""Questions to others that may hang: who asks goes on when the time is over."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from panko_ingest import threads
from panko_ingest.errors import PankoIngestError

T = TypeVar("T")


class Asked(Generic[T]):
    """A question that is asked in a thread of its own, which is left alone when its time is over.

    :param subject: what is asked, as an error names it.
    :param ask: returns the answer, or raises an error of ours whose text says why there is none.
    :param patience: seconds.
    """

    def __init__(self, subject: str, ask: Callable[[], T], patience: float) -> None:
        self._subject = subject
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._asked: Future[T] = Future()
        try:
            self._asked = threads.call(ask, subject)
        except OSError as error:
            self._asked.set_exception(PankoIngestError(str(error)))

    def answer(self) -> T | None:
        """Return the answer; None where there is none, or none in time."""
        return None if self.error else self._asked.result()

    @property
    def error(self) -> str:
        """Why there is no answer; an empty text where there is one."""
        wait([self._asked], max(0.0, self._deadline - time.monotonic()))
        if not self._asked.done():
            return f"{self._subject}: no answer within {self._patience:.0f} s"
        error = self._asked.exception()
        if error is None or isinstance(error, PankoIngestError):
            return f"{self._subject}: {error}" if error else ""
        return f"{self._subject}: {type(error).__name__}: {error}"
