"""Mutated notifications: what a publisher may change, leave out or get wrong."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from tests.bodies import decode
from tests.unit.corpus import samples

Path = tuple[str | int, ...]

ODD_VALUES: list[Any] = [
    None, "", " ", "0", 0, 0.0, -1, 1, 1.5, True, False, [], {}, [None], [""], {"a": None}, "x" * 300,
    "größe", "lots", "12", "12.5", " 7 ", "1e3", 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**70, 1e308,
    float("inf"), float("-inf"), float("nan"), ["a", {"b": "c"}], {"id": "x", "name": None},
    "a.b.c.d", ".", "a",
]  # fmt: skip
ODD_TIMES: list[Any] = [
    "2026-11-23 13:16:34", "2026-11-23 13:16:34.317715", "2026-11-23T13:16:34Z", "2026-11-23T13:16:34+05:30",
    "2026-11-23T13:16:34.1234567-0800", "2026-11-23T13:16:34+00", "2026-11-23", "20261123", "2026", "202611",
    "2026-1-3", "2026-11-23T13:16", "2026-11-23 13:16:60", "2026-02-30 00:00:00", "2026-11-23T24:00:00",
    "2026-11-23T13:16:34,5", "2026-11-23T13:16:34.", "2026-W47-1", "1969-12-31 23:59:59.5",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01 00:00:00",
    "Mon, 23 Nov 2026 13:16:34 GMT", "1795439794", 1795439794, "2026-11-23 13:16:34 UTC",
    " 2026-11-23 13:16:34", "2026-11-23 13:16:34 ", "2026-11-23 13:16:34\n", "", None, True, [],
]  # fmt: skip
NEW_TYPES = [
    "compute.instance.new",
    "volume.exists",
    "image.update",
    "identity.authenticate",
    "x.http.response",
    "x",
]


def cases(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ``{"sample": name, "priority": p, "notification": n}``, the same for the same seed."""
    chance = random.Random(seed)
    corpus = [(sample.name, decode(sample.body)) for sample in samples()]
    for number in range(count):
        name, notification = corpus[number % len(corpus)]
        message = copy.deepcopy(notification.message)
        for _ in range(0 if number < len(corpus) else chance.randint(1, 4)):
            mutate(message, chance)
        yield {"sample": name, "priority": notification.priority, "notification": message}


def mutate(message: dict[str, Any], chance: random.Random) -> None:
    """Remove, null, retype, rename, move or age one value of a notification."""
    paths = list(_paths(message))
    times = [path for path in paths if _looks_like_a_time(path)]
    kind = chance.random()
    if kind < 0.3 and times:
        _set(message, chance.choice(times), chance.choice(ODD_TIMES))
        return
    if kind > 0.97:
        message["event_type"] = chance.choice(NEW_TYPES)
        return
    path = chance.choice(paths)
    parent = _get(message, path[:-1])
    key = path[-1]
    if kind < 0.65:
        parent[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    elif kind < 0.8:
        del parent[key]
    elif kind < 0.9 and isinstance(parent, dict):
        parent[f"{key}_renamed"] = parent.pop(key)
    else:
        _set(message, path, copy.deepcopy(_get(message, chance.choice(paths))))


def _looks_like_a_time(path: Path) -> bool:
    key = str(path[-1])
    return key.endswith(("_at", "timestamp", "Time", "_beginning", "_ending"))


def _paths(value: Any, prefix: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict):
        children: Any = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return
    for key, child in children:
        # event_type and metadata themselves are upstream's envelope, not the publisher's
        if prefix or key not in {"event_type", "metadata"}:
            yield (*prefix, key)
        yield from _paths(child, (*prefix, key))


def _get(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _set(message: dict[str, Any], path: Path, value: Any) -> None:
    _get(message, path[:-1])[path[-1]] = value


def as_line(case: dict[str, Any]) -> str:
    """Return a case as one line that json.loads reads back, NaN included."""
    return json.dumps(case)
