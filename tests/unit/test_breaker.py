"""When nearly everything is a dead letter, reading all but stops; one source that floods stops no other."""

import pytest
from hypothesis import given, strategies as st

from panko_ingest.breaker import HOUR, PROBE_INTERVAL, FloodBreaker, Tally
from tests.unit.clock import Clock

NOVA, CINDER = ("compute.host1", "compute.instance.update"), ("volume.host2", "volume.create.end")


def tally(messages: int, dead: int, source: tuple[str, str] = NOVA, size: int = 1) -> Tally:
    return Tally([source] * (messages - dead), [source] * dead, size * dead)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> FloodBreaker:
    return FloodBreaker(0.9, clock)


def test_the_breaker_never_opens_on_fewer_than_a_thousand_messages(breaker: FloodBreaker) -> None:
    breaker.record(tally(999, 999))
    assert not breaker.open


def test_the_breaker_opens_when_more_than_the_limit_of_the_last_thousand_are_dead(
    breaker: FloodBreaker,
) -> None:
    breaker.record(tally(500, 500))
    breaker.record(tally(500, 401))
    assert breaker.open


def test_a_share_at_the_limit_is_no_flood(breaker: FloodBreaker) -> None:
    breaker.record(tally(1000, 900))
    assert not breaker.open


def test_old_good_messages_do_not_hide_a_flood(breaker: FloodBreaker) -> None:
    breaker.record(tally(100_000, 0))
    breaker.record(tally(500, 500))
    assert not breaker.open
    breaker.record(tally(500, 500))
    assert breaker.open


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 20)), min_size=1, max_size=20))
def test_a_publisher_that_floods_does_not_stop_one_whose_messages_are_good(
    batches: list[tuple[int, int]],
) -> None:
    breaker = FloodBreaker(0.9, Clock())
    for bad, good in batches:
        breaker.record(Tally([CINDER] * good, [NOVA] * bad, bad))
        assert not breaker.open


GARBAGE = ("", "notifications.info")
GOOD = [NOVA, CINDER, ("image.host3", "image.update")]


@pytest.mark.parametrize("flood", [GARBAGE, NOVA])
@pytest.mark.parametrize("others", [0, 5])
def test_a_publisher_that_floods_does_not_stop_those_whose_good_messages_wait_behind_its_own(
    breaker: FloodBreaker, clock: Clock, flood: tuple[str, str], others: int
) -> None:
    breaker.record(Tally(GOOD * 1000, []))
    for _ in range(50):
        clock.advance(10)
        breaker.record(Tally([], [flood] * (1000 - others) + [CINDER] * others))
        assert not breaker.open


def test_where_nothing_but_garbage_comes_for_long_it_opens(breaker: FloodBreaker) -> None:
    breaker.record(Tally(GOOD * 1000, []))
    batches = 0
    while not breaker.open:
        breaker.record(Tally([], [GARBAGE] * 1000))
        batches += 1
        assert batches <= 101


def test_whose_messages_were_good_more_than_an_hour_ago_keeps_no_breaker_closed(
    breaker: FloodBreaker, clock: Clock
) -> None:
    breaker.record(Tally(GOOD, []))
    clock.advance(HOUR)
    breaker.record(tally(1000, 1000, GARBAGE))
    assert breaker.open


@pytest.mark.parametrize("publishers", [1, 2, 3, 500])
def test_where_all_were_good_and_break_at_once_it_opens_though_not_each_has_sent_something_since(
    breaker: FloodBreaker, publishers: int
) -> None:
    sources = [(f"compute.host{number}", "compute.instance.update") for number in range(publishers)]
    rare = [("key-manager.host", "secret.read")] * (publishers > 2)
    breaker.record(Tally(sources * 10 + rare, []))
    breaker.record(Tally([], (sources * 1000)[:1000]))
    assert breaker.open


def test_a_probe_of_what_one_publisher_sends_does_not_close_it(breaker: FloodBreaker, clock: Clock) -> None:
    breaker.record(Tally(GOOD, []))
    breaker.record(Tally([], GOOD * 400))
    clock.advance(PROBE_INTERVAL)
    breaker.record(tally(100, 95))
    breaker.record(tally(100, 100, CINDER))
    assert breaker.open


def test_definitions_that_break_every_type_open_the_breaker(breaker: FloodBreaker) -> None:
    breaker.record(tally(600, 590))
    breaker.record(tally(600, 600, CINDER))
    assert breaker.open


def test_one_probe_in_each_interval_is_let_through_until_one_is_good(
    breaker: FloodBreaker, clock: Clock
) -> None:
    breaker.record(tally(1000, 1000))
    assert not breaker.probe_due
    clock.advance(PROBE_INTERVAL)
    assert breaker.probe_due
    breaker.record(tally(100, 100))
    assert breaker.open
    assert not breaker.probe_due
    clock.advance(PROBE_INTERVAL)
    breaker.record(tally(100, 10))
    assert not breaker.open


def test_the_few_that_are_held_while_it_is_open_close_it_only_when_a_probe_is_due(
    breaker: FloodBreaker, clock: Clock
) -> None:
    breaker.record(tally(1000, 1000))
    clock.advance(PROBE_INTERVAL / 2)
    breaker.record(tally(2, 0))
    breaker.record(tally(1, 1))
    assert breaker.open
    clock.advance(PROBE_INTERVAL / 2)
    assert breaker.probe_due, "whatever came meanwhile, a minute after the last one"
    breaker.record(tally(2, 0))
    assert not breaker.open


def test_an_open_breaker_to_which_nothing_comes_is_open_no_more_and_opens_at_the_first_bad_batch(
    breaker: FloodBreaker, clock: Clock
) -> None:
    breaker.record(tally(1000, 1000))
    clock.advance(5 * PROBE_INTERVAL)
    assert breaker.open
    clock.advance(PROBE_INTERVAL)
    assert not breaker.open
    breaker.record(tally(100, 100))
    assert breaker.open
    assert not breaker.probe_due
    clock.advance(6 * PROBE_INTERVAL)
    breaker.record(tally(100, 10))
    breaker.record(tally(900, 800))
    assert not breaker.open


def test_a_closed_breaker_counts_from_nothing(breaker: FloodBreaker) -> None:
    breaker.record(tally(1000, 1000))
    breaker.record(tally(10, 0))
    breaker.record(tally(999, 999))
    assert not breaker.open


def test_a_dead_letter_limit_of_zero_turns_the_breaker_off(clock: Clock) -> None:
    breaker = FloodBreaker(0.0, clock)
    breaker.record(tally(5000, 5000))
    assert not breaker.open


def test_dead_letters_that_are_too_large_in_an_hour_open_it_whoever_else_is_good_until_the_hour_is_over(
    clock: Clock,
) -> None:
    breaker = FloodBreaker(0.9, clock, hourly_bytes=1000)
    breaker.record(Tally([CINDER], [NOVA], 600))
    assert not breaker.open
    assert breaker.share_of_hourly_bytes == 0.6
    breaker.record(Tally([CINDER], [NOVA], 600))
    assert breaker.open
    assert not breaker.probe_due
    clock.advance(HOUR)
    assert not breaker.open
