"""Values of a notification as trait values, and what is wrong with those that can't be."""

import datetime
import math
from collections.abc import Callable
from typing import Any

from panko_ingest import timestamps
from panko_ingest.exact_json import kind
from panko_ingest.redaction import redact
from panko_ingest.storage.models import UNSTORABLE, Trait, TraitValue

Faults = list[tuple[str, str]]
"""``(trait, reason)`` of each trait that had to be changed or dropped. A reason never quotes the value."""

LARGEST_INT = 2**63 - 1
_REPLACEMENT = "\ufffd"


def text(value: Any, name: str, faults: Faults) -> str | None:
    """Return at most 255 characters of text, without the credentials in it, as raw is without them.

    NUL and lone surrogates are replaced, and that is a fault. Bytes, which only plugins return, are UTF-8.
    """
    if isinstance(value, bytes):
        value = str(value, "utf-8", "surrogateescape")
    try:
        result = str(redact(value))
    except ValueError:  # an integer of thousands of digits
        faults.append((name, "dropped: a number too long to be text"))
        return None
    result = result[: Trait.MAX_TEXT]
    clean = UNSTORABLE.sub(_REPLACEMENT, result)
    if clean != result:
        faults.append((name, "changed: characters that no database stores were replaced"))
    return clean


def integer(value: Any, name: str, faults: Faults) -> int | None:
    """Return an integer of 64 bits; '' is null, as services write it."""
    if value == "":
        return None
    try:
        result = int(value)
    except (TypeError, ValueError, OverflowError):  # the last one for an infinite float
        faults.append((name, f"dropped: {kind(value)} is no integer"))
        return None
    if -LARGEST_INT - 1 <= result <= LARGEST_INT:
        return result
    faults.append((name, "dropped: the integer needs more than 64 bits"))
    return None


def real(value: Any, name: str, faults: Faults) -> float | None:
    """Return a finite float; '' is null, as services write it."""
    if value == "":
        return None
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    except (TypeError, ValueError):
        faults.append((name, f"dropped: {kind(value)} is no number"))
        return None
    if math.isfinite(result):
        return result
    faults.append((name, "dropped: the number is not finite"))
    return None


def moment(value: Any, name: str, faults: Faults) -> datetime.datetime | None:
    """Return a naive UTC time; '' is null, as services write it."""
    if value == "":
        return None
    try:
        return timestamps.parse(value)
    except ValueError:
        faults.append((name, f"dropped: {kind(value)} is no ISO 8601 time"))
        return None


CONVERTERS: dict[int, Callable[[Any, str, Faults], TraitValue]] = {
    Trait.TEXT_TYPE: text,
    Trait.INT_TYPE: integer,
    Trait.FLOAT_TYPE: real,
    Trait.DATETIME_TYPE: moment,
}
"""For each type of trait the function ``(value, trait, faults) -> value or None``."""
