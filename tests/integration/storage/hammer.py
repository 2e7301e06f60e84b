"""A process that writes overlapping batches for some seconds: ``python -m ... URL WORKER SECONDS``.

All workers go through the same windows of events, each of which overlaps the one before; odd workers
present them in the opposite order. Every third event is a year old, and the expirer's.
"""

import contextlib
import dataclasses
import datetime
import json
import sys
import time

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event
from tests.integration.storage.samples import make_event

WINDOW = 100
YEAR = datetime.timedelta(days=365)


def is_old(number: int) -> bool:
    return number % 3 == 0


def event(number: int) -> Event:
    made = make_event(number, event_type=f"type {number // 500}.{number % 7}")
    # Far enough from now, whenever the test runs, that an expirer of a ttl of 100 days takes the old only.
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    return dataclasses.replace(made, generated=now - YEAR if is_old(number) else now)


def write(url: str, worker: int, seconds: float) -> None:
    store = Connection(url)
    ends = time.monotonic() + seconds
    recorded: list[int] = []
    windows = 0
    while time.monotonic() < ends:
        numbers = list(range(windows * WINDOW, (windows + 2) * WINDOW))
        if worker % 2:
            numbers.reverse()
        result = store.record_events([event(number) for number in numbers])
        assert not result.failed
        recorded += [numbers[index] for index in result.recorded if not is_old(numbers[index])]
        windows += 1
    store.close()
    json.dump({"windows": windows, "recorded": recorded}, sys.stdout)


def write_whatever_comes(url: str, worker: int, seconds: float) -> None:
    """Write until killed or told to stop, beside somebody who deletes everything now and then."""
    store = Connection(url)
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
        events = [make_event(number * 200 + step + worker * 50) for step in range(1, 2 + number % 150)]
        with contextlib.suppress(StorageUnavailable):
            store.record_events(events, on_failure=fail)
    store.close()


def fail(_index: int, error: Exception) -> DeadLetter:
    raise error


def clear(url: str, seconds: float) -> None:
    store = Connection(url)
    ends = time.monotonic() + seconds
    cleared = 0
    while time.monotonic() < ends:
        store.clear()
        cleared += 1
        time.sleep(0.3)
    store.close()
    json.dump({"cleared": cleared}, sys.stdout)


def expire(url: str, seconds: float, *, until_any: bool) -> None:
    store = Connection(url)
    ends = time.monotonic() + seconds
    deleted = 0
    while time.monotonic() < ends or (until_any and not deleted):
        deleted += store.clear_expired_data(100 * 86400, 50)
        time.sleep(0.01)
    store.close()
    json.dump({"deleted": deleted}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[2] == "clear":
        clear(sys.argv[1], float(sys.argv[3]))
    elif sys.argv[2].startswith("careless"):
        write_whatever_comes(sys.argv[1], int(sys.argv[2].removeprefix("careless")), float(sys.argv[3]))
    elif sys.argv[2].startswith("expirer"):
        # What is old comes when the writers are at work.
        expire(sys.argv[1], float(sys.argv[3]), until_any=sys.argv[2] == "expirer-of-some")
    else:
        write(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
