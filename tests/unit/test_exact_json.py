"""Numbers keep their value on every way from a message to what is stored, or they are refused."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from panko_ingest import exact_json
from panko_ingest.amqp.publisher import envelope
from panko_ingest.storage import EventFilter, get_connection
from panko_ingest.storage.models import SALVAGED_KEY
from tests.bodies import decode
from tests.unit.definitions import converter

EDGES = [side * (2**power) + more for side in (-1, 1) for power in (31, 53, 63, 64) for more in (-1, 0, 1)]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(), st.floats(allow_nan=False, allow_infinity=False))


def same(first: Any, second: Any) -> bool:
    return first == second and type(first) is type(second)


@given(numbers, st.booleans())
def test_a_number_is_read_and_written_with_its_value(number: float, as_bytes: bool) -> None:
    text = json.dumps({"n": [number]})
    assert same(exact_json.loads(text.encode() if as_bytes else text)["n"][0], number)
    for indent in (None, 2):
        assert same(json.loads(exact_json.dumps({"n": number}, indent))["n"], number)


@given(numbers)
def test_a_number_is_published_with_its_value(number: float) -> None:
    inner = {"message_id": "m", "timestamp": "2026-11-23", "payload": number}
    for body in (envelope(inner), envelope(json.loads(envelope(inner)), renew=True)):
        assert same(decode(body).message["payload"], number)


@pytest.mark.parametrize("number", [*EDGES, 10**30, 1e18, 1e19, -1e19])
def test_a_number_is_stored_with_its_value_or_its_trait_is_dropped(tmp_path: Any, number: float) -> None:
    text = "- {event_type: x, traits: {n: {type: int, fields: payload.n}}}"
    conversion = converter(tmp_path, text, store_raw=["info"])
    inner = {
        "message_id": "m", "event_type": "x", "timestamp": "2026-11-23", "priority": "info",
        "payload": {"n": number},
    }  # fmt: skip
    notification = decode(json.dumps(inner).encode())
    event = conversion.to_event(notification.message, "info")
    store = get_connection("sqlite://")
    store.upgrade()
    assert event is not None
    store.record_events([event])
    (found,) = store.get_events(EventFilter())
    store.close()
    assert same(found.raw["payload"]["n"], number)
    values = [trait.value for trait in found.traits if trait.name == "n"]
    fits = -(2**63) <= int(number) < 2**63
    assert values == ([int(number)] if fits else [])
    assert (SALVAGED_KEY in found.raw) is not fits
