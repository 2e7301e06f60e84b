"""Tells which differences between the two converters are wanted, and why."""

import math
from typing import Any

from panko_ingest.converter import EventConverter
from panko_ingest.errors import ConvertError
from panko_ingest.storage.models import SALVAGED_KEY, Event

Result = dict[str, Any]


def ours(converter: EventConverter, case: dict[str, Any]) -> Result:
    """Return our result in the form of ``ceilometer_side``, with what was salvaged."""
    try:
        event = converter.to_event(case["notification"], case["priority"])
    except ConvertError as error:
        return {"error": str(error)}
    return {"event": event and event.serialize(), "salvaged": _salvaged(event)}


def _salvaged(event: Event | None) -> dict[str, str]:
    faults = event.raw.get(SALVAGED_KEY, ()) if event else ()
    return {fault["trait"]: fault["reason"] for fault in faults}


def verdict(case: dict[str, Any], upstream: Result, our: Result) -> str:
    """Return ``same``, the reason of a wanted difference, or ``unexplained: ...``."""
    theirs, mine = upstream.get("event"), our.get("event")
    if "error" in our:
        if "error" in upstream:
            return "same"
        return _refused(case, our["error"])
    if "error" in upstream:
        return _lost_upstream(upstream["error"], our["salvaged"])
    if theirs is None or mine is None:
        return "same" if theirs is mine else "unexplained: only one drops it"
    return _compare(case["notification"], theirs, mine, our["salvaged"])


def _lost_upstream(error: str, salvaged: dict[str, str]) -> str:
    if salvaged:
        return "salvaged: upstream loses the event for one bad trait"
    if error.startswith("TypeError: object of type ") and "has no len()" in error:
        return "kept: upstream's JSONPath cannot take [0] of a number and loses the event"
    if "int() argument must be" in error or "float infinity to integer" in error:
        return "kept: upstream's filters cannot compare all with a number, and lose the event"
    return f"unexplained: only upstream refuses: {error}"


def _refused(case: dict[str, Any], reason: str) -> str:
    identity = {**case["notification"]["metadata"], "event_type": case["notification"]["event_type"]}
    name = reason.partition(" ")[0]
    if name in identity and name != "timestamp" and not _is_usable(identity[name]):
        return f"refused: upstream passes on an event whose {name} no database stores"
    return f"unexplained: only ours refuses: {reason}"


def _is_usable(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _compare(
    notification: dict[str, Any], theirs: dict[str, Any], mine: dict[str, Any], salvaged: dict[str, str]
) -> str:
    for name in ("message_id", "event_type", "generated"):
        if theirs[name] != mine[name]:
            return f"unexplained: {name} {theirs[name]!r} is {mine[name]!r}"
    their_traits = {name: (dtype, value) for name, dtype, value in theirs["traits"]}
    my_traits = {name: (dtype, value) for name, dtype, value in mine["traits"]}
    differing = {
        name
        for name in their_traits.keys() | my_traits.keys()
        if not _equal(their_traits.get(name), my_traits.get(name))
    }
    if not differing:
        return "same"
    if differing == salvaged.keys() and all(_is_unstorable(their_traits.get(name)) for name in differing):
        return "salvaged: upstream passes on a value that no database stores"
    if differing == salvaged.keys() == {"life"} and _ends_the_calendar(notification["payload"]):
        return "salvaged: upstream can subtract a time that is beyond the calendar in UTC"
    if all(_is_read_differently(name, notification) for name in differing):
        return "JSONPath: jsonpath-rw takes [*] of what is no list for it, and not .* of a list; ours is -ng"
    name = min(differing)
    return f"unexplained: trait {name} {their_traits.get(name)!r} is {my_traits.get(name)!r}"


def _is_read_differently(trait: str, notification: dict[str, Any]) -> bool:
    """Tell whether features.yaml reads the trait by a path on which the two JSONPath libraries differ."""
    context = notification["ctxt"]
    if trait == "roles":
        return isinstance(context, dict) and not isinstance(context.get("roles"), list)
    return trait == "first_of_many" and (
        isinstance(notification["payload"], list) or isinstance(context, list)
    )


def _ends_the_calendar(payload: dict[str, Any]) -> bool:
    times = (str(payload.get(name)) for name in ("created_at", "launched_at"))
    return any(time.startswith(("9999-12-31", "0001-01-01")) for time in times)


def _equal(one: Any, other: Any) -> bool:
    return one == other or repr(one) == repr(other)


def _is_unstorable(trait: Any) -> bool:
    value = trait and trait[1]
    if isinstance(value, str):
        return any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**63
