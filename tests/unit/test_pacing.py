"""The pace of expiry follows what batches take, and what they take from writers."""

import datetime
import itertools

import pytest
from hypothesis import given, strategies as st

from panko_ingest.storage import partitions
from panko_ingest.storage.pacing import FIRST_SIZE, LARGEST_SIZE, LONGEST_BATCH, SMALLEST_SIZE, Pace


@pytest.mark.parametrize("events_per_second", [300, 5_000, 40_000])
def test_batches_settle_below_the_longest_time(events_per_second: int) -> None:
    pace = Pace()
    for _ in range(20):
        pace.deleted(pace.size, pace.size / events_per_second, 0)
    assert pace.size / events_per_second <= LONGEST_BATCH or pace.size == SMALLEST_SIZE
    assert SMALLEST_SIZE <= pace.size <= LARGEST_SIZE


def test_a_size_that_was_set_stays() -> None:
    pace = Pace(123)
    pace.deleted(123, 5.0, 0)
    assert pace.size == 123


def test_the_last_batch_of_few_events_teaches_nothing() -> None:
    pace = Pace()
    pace.deleted(3, 0.001, 0)
    assert pace.size == FIRST_SIZE


def test_there_is_no_pause_when_nobody_writes() -> None:
    pace = Pace()
    for _ in range(10):
        pace.deleted(1000, 0.1, 0)
    assert pace.pause(0.1) == 0


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.5, 0.9])
def test_writers_lose_less_than_a_tenth_of_their_rate_whatever_a_batch_costs_them(loss: float) -> None:
    pace = Pace()
    deleting = pausing = 0.0
    for _ in range(400):
        pace.deleted(pace.size, 0.1, int(0.1 * 5000 * (1 - loss)))
        pause = pace.pause(0.1)
        pace.paused(pause, int(pause * 5000))
        deleting, pausing = deleting + 0.1, pausing + pause
    assert loss * deleting / (deleting + pausing) < 0.1


days = st.dates(datetime.date(1, 1, 31), datetime.date(9990, 1, 1))


@given(days, st.sampled_from(sorted(partitions.WIDTHS)), st.integers(0, 500))
def test_new_partitions_are_contiguous_few_and_reach_beyond_the_next_week(
    start: datetime.date, width: str, late: int
) -> None:
    today = start + datetime.timedelta(days=late)
    new = partitions.missing(partitions.period_start(start, width), width, today)
    if not new:
        return
    assert new[0].start == partitions.period_start(start, width)
    assert all(one.end == following.start for one, following in itertools.pairwise(new))
    assert new[-1].end is None
    assert new[-1].start is not None
    assert new[-1].start > today + datetime.timedelta(days=7)
    assert len(new) <= 12


@given(days, days)
def test_ids_are_in_the_order_of_days(one: datetime.date, other: datetime.date) -> None:
    assert (partitions.first_id(one) < partitions.first_id(other)) == (one < other)
    assert 0 < partitions.first_id(one) < partitions.id_after(one) < 2**63
