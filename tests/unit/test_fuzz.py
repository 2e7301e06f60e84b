"""Mutated bodies raise nothing but the documented errors, take no time, and load no pickle or YAML."""

import pickle
import time
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from panko_ingest import dead_letter, resources
from panko_ingest.converter import EventConverter
from panko_ingest.errors import ConvertError, DecodeError
from tests.bodies import decode
from tests.unit.mutated_bodies import mutated

SECONDS_FOR_A_MESSAGE = 1.0
LONG = 200_000


@pytest.fixture(scope="module")
def converter() -> EventConverter:
    return EventConverter.from_file(resources.path("etc", "event_definitions.yaml"))


@pytest.fixture
def nothing_is_loaded(converter: EventConverter, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail("a body was loaded by pickle or YAML")

    with monkeypatch.context() as patched:
        for module, name in [(pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (yaml, "load")]:
            patched.setattr(module, name, refuse)
        yield


def survive(converter: EventConverter, seed: int) -> None:
    delivery = mutated(seed)
    started = time.process_time()
    try:
        notification = decode(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
            max_size=1_000_000,
            max_depth=100,
        )
        converter.to_event(notification.message, notification.priority)
    except (DecodeError, ConvertError) as error:
        letter = dead_letter.from_delivery(
            delivery, error, stage=error.stage, max_size=1_000_000, max_depth=100
        )
        assert letter.error
    assert time.process_time() - started < SECONDS_FOR_A_MESSAGE, f"seed {seed} took too long"


@pytest.mark.usefixtures("nothing_is_loaded")
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_mutated_body_is_an_event_or_a_dead_letter(converter: EventConverter, seed: int) -> None:
    survive(converter, seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("nothing_is_loaded")
def test_two_hundred_thousand_mutated_bodies_are_events_or_dead_letters(converter: EventConverter) -> None:
    for seed in range(LONG):
        survive(converter, seed)
