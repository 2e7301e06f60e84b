"""What decoding and conversion cost, beside a plain jsonpath-ng evaluation: ``make bench-convert``.

One process, the standard load, the reference definitions; CPU time, so that neighbours count little.
``--memory`` instead converts a million notifications of ten thousand event types and watches the
process' size.
"""

import argparse
import gc
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.make_load import lines
from panko_ingest import timestamps
from panko_ingest.converter import EventConverter
from panko_ingest.notification import Notification
from panko_ingest.storage.models import Event, Trait
from tests.bodies import decode as decode_body
from tests.unit.definitions import plainly

INCUMBENT = 2960  # notifications/s, conversion alone, on the machine of the first measurements
MEMORY_EVERY = 100_000


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="notifications (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=5, help="rounds, the best counts (default: %(default)s)"
    )
    parser.add_argument("--definitions", type=Path, default=load.definitions())
    parser.add_argument("--memory", action="store_true", help="watch memory over 1,000,000 notifications")
    arguments = parser.parse_args()
    converter = EventConverter.from_file(arguments.definitions)
    bodies = standard_load(2_000 if arguments.memory else arguments.count)
    if arguments.memory:
        return watch_memory(converter, bodies)
    compare(converter, bodies, arguments.repeat)
    return 0


def standard_load(count: int) -> list[bytes]:
    """Return the bodies of the standard load."""
    return [line.encode() for line in lines(count, 1, load.START, load.DAY)]


def decode(body: bytes) -> Notification:
    """Decode as the daemon does."""
    return decode_body(body, content_type="application/json", content_encoding="utf-8", headers={})


def compare(converter: EventConverter, bodies: list[bytes], repeat: int) -> None:
    """Time the parts and the whole, and the same without compilation."""
    notifications = [decode(body) for body in bodies]

    def whole(body: bytes) -> Event | None:
        notification = decode(body)
        return converter.to_event(notification.message, notification.priority)

    def convert(notification: Notification) -> Event | None:
        return converter.to_event(notification.message, notification.priority)

    def plainly(notification: Notification) -> Event | None:
        return convert_plainly(converter, notification.message)

    events = [event for event in map(convert, notifications) if event is not None]
    for notification, event in zip(notifications[:1000], events, strict=False):
        assert plainly(notification) == event, "the compiled definitions differ from the plain ones"
    traits = sum(len(event.traits) for event in events) / len(events)
    size = sum(map(len, bodies)) / len(bodies)
    print(f"{len(bodies)} notifications of {size:.0f} bytes, {traits:.1f} traits an event; CPU time\n")
    del events
    gc.collect()
    gc.freeze()  # so that collections cost what they do in a daemon, not what our lists add to them
    rows = [
        ("json, both layers", cost(json_both_layers, bodies, repeat)),
        ("decode", cost(decode, bodies, repeat)),
        ("convert, compiled", cost(convert, notifications, repeat)),
        ("decode and convert, compiled", cost(whole, bodies, repeat)),
        ("convert, plain jsonpath-ng", cost(plainly, notifications[:2000], 1)),
    ]
    for name, seconds in rows:
        rate = 1 / seconds
        print(f"{name:30} {seconds * 1e6:8.1f} us {rate:10,.0f}/s {rate / INCUMBENT:7.1f} x incumbent")
    tell_objects(whole, bodies, repeat)


def tell_objects(whole: Callable[[bytes], Event | None], bodies: list[bytes], repeat: int) -> None:
    """Print how many objects an event is made of, and what fewer of them could spare at most."""
    events: list[Event | None] = [None] * len(bodies)
    blocks, watched = sys.getallocatedblocks(), len(gc.get_objects())
    for place, body in enumerate(bodies):
        events[place] = whole(body)
    made, seen = sys.getallocatedblocks() - blocks, len(gc.get_objects()) - watched
    count = len(bodies)
    print(f"\nan event is {made / count:.0f} objects, {seen / count:.0f} known to the garbage collector")
    traits = [event.traits for event in events if event is not None]
    del events
    gc.collect()
    gc.freeze()
    rows = [("making and freeing the traits", cost(_again, traits, repeat))]
    gc.disable()
    rows.append(("the whole, nothing collected", cost(whole, bodies, repeat)))
    gc.enable()
    for name, seconds in rows:
        print(f"{name:30} {seconds * 1e6:8.1f} us")


def _again(traits: list[Trait]) -> list[Trait]:
    new = tuple.__new__
    return [new(Trait, (name, dtype, value)) for name, dtype, value in traits]


def json_both_layers(body: bytes) -> Any:
    """Parse as the standard library does: the yardstick for the machine."""
    return json.loads(json.loads(body)["oslo.message"])


def convert_plainly(converter: EventConverter, message: dict[str, Any]) -> Event | None:
    """Convert by evaluating every path with jsonpath-ng."""
    definition = converter.definition_of(message["event_type"])
    if definition is None:
        return None
    metadata = message["metadata"]
    traits = plainly(definition, message, [])
    generated = timestamps.parse(metadata["timestamp"])
    return Event(metadata["message_id"], message["event_type"], generated, traits)


def cost(work: Callable[[Any], Any], items: Iterable[Any], repeat: int) -> float:
    """Return the CPU seconds of one call, in the best of the rounds."""
    items = list(items)
    best = float("inf")
    for _ in range(repeat):
        started = time.process_time()
        for item in items:
            work(item)
        best = min(best, time.process_time() - started)
    return best / len(items)


def watch_memory(converter: EventConverter, bodies: list[bytes]) -> int:
    """Convert a million notifications of ten thousand event types; exit code 1 where memory grows."""
    sizes = []
    for number, body in enumerate(itertools.islice(itertools.cycle(bodies), 1_000_000)):
        notification = decode(body)
        notification.message["event_type"] += f".{number * 7919 % 10_000}"
        notification.message["ctxt"][f"key-{number}"] = number
        converter.to_event(notification.message, notification.priority)
        if number % MEMORY_EVERY == MEMORY_EVERY - 1:
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            print(f"{number + 1:9,} notifications: {sizes[-1] / 1024:7.1f} MiB at most", flush=True)
    grown = sizes[-1] - sizes[1]
    print(f"grown after the first 200,000: {grown / 1024:.1f} MiB")
    return int(grown > 1024)


if __name__ == "__main__":
    sys.exit(main())
