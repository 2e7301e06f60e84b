"""The plain models, after Panko's."""

import datetime
from typing import Any

import pytest

from panko_ingest.storage.models import Event, Trait

NOON = datetime.datetime(2026, 11, 23, 12)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("none", 0), ("text", 1), ("int", 2), ("float", 3), ("datetime", 4), ("TEXT", 1),
        ("string", 1), ("integer", 2), ("bogus", None),
    ],
)  # fmt: skip
def test_types_of_traits_are_known_by_name(name: str, number: int | None) -> None:
    assert Trait.get_type_by_name(name) == number


def test_types_of_traits_have_pankos_names() -> None:
    assert Trait.get_type_names() == ["none", "string", "integer", "float", "datetime"]
    assert [Trait.get_name_by_type(number) for number in (1, 4, 9)] == ["string", "datetime", "none"]


@pytest.mark.parametrize(
    ("dtype", "value", "converted"),
    [
        (Trait.TEXT_TYPE, b"abc", "abc"),
        (Trait.TEXT_TYPE, "x" * 300, "x" * 255),
        (Trait.TEXT_TYPE, True, "True"),
        (Trait.TEXT_TYPE, {"a": [1]}, "{'a': [1]}"),
        (Trait.INT_TYPE, "12", 12),
        (Trait.INT_TYPE, True, 1),
        (Trait.FLOAT_TYPE, "0.5", 0.5),
        (Trait.DATETIME_TYPE, "2026-11-23T14:00:00+02:00", NOON),
        (Trait.DATETIME_TYPE, NOON, NOON),
        (Trait.NONE_TYPE, 5, "5"),
    ],
)
def test_values_are_converted_as_panko_does(dtype: int, value: Any, converted: Any) -> None:
    result = Trait.convert_value(dtype, value)
    assert (result, type(result)) == (converted, type(converted))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(Trait.INT_TYPE, "lots"), (Trait.INT_TYPE, None), (Trait.FLOAT_TYPE, {}), (Trait.DATETIME_TYPE, "soon")],
)
def test_a_value_that_its_type_can_not_hold_is_refused(dtype: int, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Trait.convert_value(dtype, value)


def test_an_event_is_serialized_as_ceilometers_publisher_does() -> None:
    event = Event(
        "m", "x", NOON, [Trait("t", Trait.DATETIME_TYPE, NOON), Trait("i", Trait.INT_TYPE, 1)], {"a": 1}
    )
    assert event.serialize() == {
        "message_id": "m",
        "event_type": "x",
        "generated": "2026-11-23T12:00:00",
        "traits": [("t", 4, "2026-11-23T12:00:00"), ("i", 2, 1)],
        "raw": {"a": 1},
    }
