"""Wait for a condition instead of sleeping."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_MOST_CROWDED = 10.0
# A look reads a log, or counts a table: after a second of them there are fewer.
_SOON, _SELDOM = 1.0, 0.06


def crowding() -> float:
    """Return how much longer things take because others want the processors, too: at least 1."""
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), _MOST_CROWDED)


def wait_until(
    condition: Callable[[], T | None],
    timeout: float = 10.0,
    what: str = "the condition",
    interval: float = 0.02,
) -> T:
    """Return the first truthy value of ``condition()``.

    :param timeout: seconds after which to give up on a machine that has nothing else to do.
    :param what: names in the error what was waited for.
    :param interval: seconds between two looks; in a long wait there are more.
    :raises AssertionError: it did not come true in time; the text holds the last value.
    """
    start = time.monotonic()
    patience = timeout
    while True:
        value = condition()
        if value:
            return value
        patience = max(patience, timeout * crowding())
        if time.monotonic() > start + patience:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}; last seen: {value!r}")
        is_long = time.monotonic() > start + _SOON
        time.sleep(max(interval, _SELDOM) if is_long else interval)
