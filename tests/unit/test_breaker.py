import pytest

from panko_ingest.breaker import PROBE_INTERVAL, FloodBreaker
from tests.unit.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_never_opens_on_fewer_than_a_thousand_messages(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    assert not breaker.record(999, 999)
    assert not breaker.open


def test_it_opens_when_more_than_the_limit_of_the_last_thousand_are_dead(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    breaker.record(500, 500)
    assert breaker.record(500, 401)
    assert breaker.open


def test_a_share_at_the_limit_is_no_flood(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    assert not breaker.record(1000, 900)
    assert not breaker.open


def test_old_good_messages_do_not_hide_a_flood(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    breaker.record(100_000, 0)
    breaker.record(500, 500)
    assert not breaker.open
    breaker.record(500, 500)
    assert breaker.open


def test_one_probe_in_each_interval_is_let_through_until_one_is_good(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    breaker.record(1000, 1000)
    assert not breaker.probe_due
    clock.advance(PROBE_INTERVAL)
    assert breaker.probe_due
    assert not breaker.record(100, 100)
    assert breaker.open
    assert not breaker.probe_due
    clock.advance(PROBE_INTERVAL)
    assert breaker.record(100, 10)
    assert not breaker.open


def test_after_closing_it_counts_from_nothing(clock: Clock) -> None:
    breaker = FloodBreaker(0.9, clock)
    breaker.record(1000, 1000)
    breaker.record(10, 0)
    assert not breaker.record(999, 999)
    assert not breaker.open


def test_a_limit_of_zero_turns_it_off(clock: Clock) -> None:
    breaker = FloodBreaker(0.0, clock)
    assert not breaker.record(5000, 5000)
    assert not breaker.open
