"""The pace of expiry follows what batches take, and what they take from writers."""

import datetime
import itertools
import random

import pytest
from hypothesis import given, strategies as st

from panko_ingest.storage.expiry.pacing import FIRST_SIZE, LARGEST_SIZE, LONGEST_BATCH, SMALLEST_SIZE, Pace
from panko_ingest.storage.schema import partitions


@pytest.mark.parametrize("events_per_second", [300, 5_000, 40_000])
def test_delete_batches_settle_below_the_longest_time(events_per_second: int) -> None:
    pace = Pace()
    for _ in range(20):
        pace.deleted(pace.size, pace.size / events_per_second, 0)
    assert pace.size / events_per_second <= LONGEST_BATCH or pace.size == SMALLEST_SIZE
    assert SMALLEST_SIZE <= pace.size <= LARGEST_SIZE


def test_a_size_of_delete_batches_that_was_set_stays() -> None:
    pace = Pace(123)
    pace.deleted(123, 5.0, 0)
    assert pace.size == 123


def test_the_pace_learns_nothing_from_a_last_batch_of_few_events() -> None:
    pace = Pace()
    pace.deleted(3, 0.001, 0)
    assert pace.size == FIRST_SIZE


class Writer:
    """Commits events by the thousand, at 5,000 a second but for what deleting takes."""

    def __init__(self, loss: float) -> None:
        self.loss = loss
        self.written = 0.0

    def ids(self, seconds: float, *, deleting: bool) -> int:
        before = int(self.written / 1000)
        self.written += seconds * 5000 * (1 - self.loss * deleting)
        return (int(self.written / 1000) - before) * 1000


def work(pace: Pace, seconds: float, writer: Writer | None = None) -> float:
    """Delete in batches of about a tenth of a second for a while; return the share of time that this took."""
    deleting = pausing = 0.0
    lengths = random.Random(1)
    while deleting + pausing < seconds:
        batch = lengths.uniform(0.07, 0.13)
        pace.deleted(pace.size, batch, writer.ids(batch, deleting=True) if writer else 0)
        deleting += batch
        if pause := pace.pause(batch):
            pace.paused(pause, writer.ids(pause, deleting=False) if writer else 0)
            pausing += pause
    return deleting / (deleting + pausing)


def test_an_expirer_hardly_pauses_when_nobody_writes() -> None:
    assert work(Pace(), 20) > 0.94


def test_an_expirer_pauses_long_enough_for_writers_that_wait() -> None:
    pace = Pace()
    pauses = [pace.pause(0.1) for _ in range(100)]
    assert all(pause == 0 or pause >= 0.1 for pause in pauses)
    assert sum(pauses) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_writers_lose_less_than_a_tenth_of_their_rate_whatever_a_batch_costs_them(loss: float) -> None:
    writer = Writer(loss)
    share = work(Pace(), 120, writer)
    assert loss * share < 0.1
    assert share > 0.045


def test_an_expirer_that_costs_writers_nothing_hardly_pauses() -> None:
    pace = Pace()
    work(pace, 60, Writer(0.0))
    assert work(pace, 60, Writer(0.0)) > 0.6


def test_an_expirer_stops_pausing_soon_after_the_last_writer_left() -> None:
    pace = Pace()
    work(pace, 30, Writer(0.9))
    work(pace, 5)
    assert work(pace, 10) > 0.9


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


def test_a_size_that_was_set_is_a_maximum_once_it_took_too_long() -> None:
    pace = Pace(1000)
    assert pace.shrink()
    assert pace.size == 250
    for _ in range(20):
        pace.deleted(pace.size, 0.001, 0)
    assert pace.size == 1000
    pace = Pace(1000, first=62)
    assert pace.size == 62
    pace.deleted(62, 0.001, 0)
    assert 62 < pace.size < 1000
