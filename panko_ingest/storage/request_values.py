"""Values that a caller asks for, checked before a database sees them: an error then names the field.

A database would tell a value that it can't compare with, or not even read, in words of its own, or as if it
were itself at fault.
"""

import datetime
import math
from collections.abc import Iterable, Mapping
from typing import Any

from panko_ingest import timestamps
from panko_ingest.storage.errors import InvalidRequest
from panko_ingest.storage.models import UNSTORABLE, Trait, TraitValue


def text(value: Any, name: str) -> str:
    """Return text that a database can hold.

    :raises InvalidRequest: it is none.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: {value!r} is no text")
    if UNSTORABLE.search(value):
        raise InvalidRequest(f"{name}: {value!r} has characters that can't be stored")
    return value


def filled(value: Any, name: str) -> str:
    """Return text as :func:`text` does, but none that is blank.

    :raises InvalidRequest: it is no text, or blank.
    """
    if not text(value, name).strip():
        raise InvalidRequest(f"{name}: is blank")
    return str(value)


def texts(values: str | Iterable[str], name: str) -> list[str]:
    """Return one text or several as a list.

    :raises InvalidRequest: one of them is no text that a database can hold.
    """
    if not isinstance(values, Iterable):
        raise InvalidRequest(f"{name}: {values!r} is neither text nor a list of text")
    return [text(value, name) for value in ([values] if isinstance(values, str) else values)]


def integer(value: Any, name: str) -> int:
    """Return an integer of 64 bits.

    :raises InvalidRequest: it is none.
    """
    if not isinstance(value, int):
        raise InvalidRequest(f"{name}: {value!r} is no integer")
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest(f"{name}: {value} is beyond 64 bits")
    return value


def count(value: Any, name: str) -> int:
    """Return a number of rows, 0 or more.

    :raises InvalidRequest: it is none.
    """
    if integer(value, name) < 0:
        raise InvalidRequest(f"{name}: {value} is negative")
    return int(value)


def seconds(value: Any, name: str) -> float:
    """Return a length of time, which may be below 0 where that has a meaning.

    :raises InvalidRequest: it is none.
    """
    if not isinstance(value, int) and not (isinstance(value, float) and not math.isnan(value)):
        raise InvalidRequest(f"{name}: {value!r} is no number of seconds")
    return value


def age(value: Any, name: str) -> float:
    """Return a number of seconds, 0 or more.

    :raises InvalidRequest: it is none.
    """
    length = seconds(value, name)
    if length < 0:
        raise InvalidRequest(f"{name}: {value} is negative")
    return length


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Return a mapping.

    :raises InvalidRequest: it is none.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name}: {value!r} is no mapping")
    return value


def mappings(values: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return several mappings as a list.

    :raises InvalidRequest: they are none, or one alone, whose keys would pass for a list.
    """
    if not isinstance(values, Iterable) or isinstance(values, Mapping | str | bytes):
        raise InvalidRequest(f"{name}: {values!r} is no list of mappings")
    return [mapping(value, name) for value in values]


def moment(value: Any, name: str) -> datetime.datetime:
    """Return a datetime or ISO 8601 text as naive UTC.

    :raises InvalidRequest: it is no time.
    """
    try:
        return timestamps.parse(value)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}") from error


def trait_value(dtype: int, value: Any, name: str) -> TraitValue:
    """Return a value as a trait of that type has it.

    :raises InvalidRequest: no trait of the type has such a value.
    """
    try:
        converted = Trait.convert_value(dtype, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"{name}: {value!r} is no {Trait.get_name_by_type(dtype)}") from error
    if isinstance(converted, str):
        return text(converted, name)
    if isinstance(converted, int):
        return integer(converted, name)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise InvalidRequest(f"{name}: {converted} is no finite number")
    return converted
