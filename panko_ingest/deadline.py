"""Questions to others that may hang: whoever asks goes on when the time is over."""

import threading
import time
from collections.abc import Callable
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
        self._answer: T | None = None
        self._subject = subject
        self._error = f"{subject}: no answer within {patience:.0f} s"
        self._ask = ask
        self._deadline = time.monotonic() + patience
        self._thread: threading.Thread | None = None
        try:
            self._thread = threads.start(self._run, subject)
        except OSError as error:
            self._error = f"{subject}: {error}"

    def _run(self) -> None:
        try:
            self._answer = self._ask()
            self._error = ""
        except PankoIngestError as error:
            self._error = f"{self._subject}: {error}"
        except Exception as error:  # noqa: BLE001 - it would end as a traceback, and as no answer in time
            self._error = f"{self._subject}: {type(error).__name__}: {error}"

    def answer(self) -> T | None:
        """Return the answer; None where there is none, or none in time."""
        if self._thread is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return self._answer

    @property
    def error(self) -> str:
        """Why there is no answer; an empty text where there is one."""
        self.answer()
        return self._error
