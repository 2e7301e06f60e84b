"""A clock that is ahead, where daemon and database share it, expires nothing: nothing stored bears it out."""

import datetime
import time
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest import timestamps
from panko_ingest.storage import ClockDoubted
from panko_ingest.storage.database import clocks, mysql, postgresql
from panko_ingest.storage.database.engine import read_transaction
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import partitions
from tests.integration.storage.samples import connect, count, make_letter

DAY = 86400.0
TTL = 90 * DAY


class HostClock:
    """The clock of the one host that daemon and database are on, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._right = timestamps.utc_now
        self._servers = {kind: kind.now for kind in (postgresql.Database, mysql.Database)}

    def set(self, days: float) -> None:
        """Let it be so many days ahead."""
        ahead = datetime.timedelta(days=days)
        self._monkeypatch.setattr(timestamps, "utc_now", lambda: self._right() + ahead)
        for kind, now in self._servers.items():
            self._monkeypatch.setattr(kind, "now", f"({now} + {ahead.total_seconds()})")

    def event(self, name: str, days_ago: float = 0.0, service: str = "volume.block1@lvm") -> Event:
        """Return an event of a publisher whose clock is right."""
        generated = self._right() - datetime.timedelta(days=days_ago)
        traits = [Trait("size", Trait.INT_TYPE, 4), Trait("service", Trait.TEXT_TYPE, service)]
        return Event(name, "volume.create.end", generated, traits)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HostClock:
    return HostClock(monkeypatch)


@pytest.fixture(
    params=[
        pytest.param("sqlite"),
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    server = request.param.replace("partitioned", "postgresql")
    found: str = request.getfixturevalue(f"{server}_url")
    store = layout(found, request.param)
    store.upgrade()
    store.close()
    return found


def layout(url: str, kind: str) -> Connection:
    if kind != "partitioned":
        return Connection(url)
    return connect(url, partition_by="week", event_time_to_live=TTL)


def starts(store: Connection) -> list[datetime.date]:
    with read_transaction(store.engine) as connection:
        return [one.start for one in partitions.found(connection) if one.start]


def test_a_clock_that_is_ahead_deletes_nothing_makes_no_partitions_and_heals_by_events_of_then(
    url: str, clock: HostClock
) -> None:
    store = Connection(url)
    store.record_events([clock.event("now"), clock.event("old", 80)], [make_letter("a")])
    before = starts(store)
    assert store.expire(TTL).events == 0
    clock.set(365)

    for _ in range(2):
        with pytest.raises(ClockDoubted, match=r"leapt by 36[45] days, .* a restart of the daemon"):
            store.expire(TTL)
        with pytest.raises(ClockDoubted):
            store.clear_expired_dead_letters(TTL)
    store.upgrade()
    assert (count(store, "event"), count(store, "dead_letter")) == (2, 1)
    last = max(before, default=None)
    assert all(last and start <= last + datetime.timedelta(days=7) for start in starts(store))

    clock.set(0)
    assert store.expire(TTL).events == 0
    # A year on, the cloud begins to work again.
    clock.set(365)
    with pytest.raises(ClockDoubted):
        store.expire(TTL)
    store.record_events(
        [clock.event("a year later", -365), clock.event("of the network", -364, "network.ctl1")]
    )
    assert store.expire(TTL).events == 2
    assert store.clear_expired_dead_letters(TTL) == 1
    store.close()


def test_one_publisher_that_is_ahead_bears_out_no_clock_of_ours(url: str, clock: HostClock) -> None:
    store = Connection(url)
    store.record_events([clock.event("now"), clock.event("of the network", 1, "network.ctl1")])
    store.record_events([clock.event("old", 80)], [make_letter("a")])
    assert store.expire(TTL).events == 0
    # Definitions may take the host off the trait of some types.
    ahead = [clock.event(f"m{days}", -days / 2, "compute.cmp3") for days in range(100)]
    store.record_events([*ahead, clock.event("m", -30, "compute")])

    clock.set(30)
    with pytest.raises(ClockDoubted, match="two services"):
        store.expire(TTL)
    store.record_events([], [make_letter("stored by the clock in doubt")])
    with pytest.raises(ClockDoubted):
        store.expire(TTL)
    store.record_events([clock.event("also then", -29.5, "network.ctl1")])
    assert store.expire(TTL).events == 1
    store.close()


def test_by_a_clock_in_doubt_dead_letters_bear_no_witness(url: str, clock: HostClock) -> None:
    store = Connection(url)
    store.record_events([], [make_letter("now")])
    assert store.clear_expired_dead_letters(TTL) == 0
    clock.set(365)
    store.record_events([], [make_letter("then")])
    with pytest.raises(ClockDoubted):
        store.clear_expired_dead_letters(TTL)
    store.close()


@pytest.mark.postgresql
def test_a_clock_in_doubt_drops_no_empty_partition_in_which_events_of_now_belong(
    postgresql_url: str, clock: HostClock
) -> None:
    store = layout(postgresql_url, "partitioned")
    store.upgrade()
    assert store.expire(TTL).events == 0
    before = starts(store)
    clock.set(365)
    assert store.expire(TTL).partitions == ()
    assert set(before) <= set(starts(store))
    assert store.record_events([clock.event("now")]).recorded == (0,)
    store.close()


@pytest.mark.postgresql
def test_a_clock_that_leaps_where_nothing_expires_makes_no_partitions_up_to_then(
    postgresql_url: str, clock: HostClock
) -> None:
    store = layout(postgresql_url, "partitioned")
    store.upgrade()
    store.expire(0)
    last = max(starts(store))
    clock.set(365)
    store.expire(0)
    assert max(starts(store)) <= last + datetime.timedelta(days=14)
    store.close()


def test_a_store_that_was_quiet_for_some_days_is_new_or_is_watched_all_the_time_is_believed(
    url: str, clock: HostClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Connection(url)
    assert store.expire(TTL).events == 0  # nothing is stored
    store.close()

    store = Connection(url)
    store.record_events([clock.event("new", 6.9), clock.event("old", 95)])
    assert store.expire(TTL).events == 1
    # So long nothing came, and each hour a round.
    started = time.monotonic()
    for days in range(1, 40):
        clock.set(days)
        monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=lambda: started + days * DAY))  # noqa: B023 - read at once
        assert store.expire(TTL).events == 0
    store.close()

    # One that was started now knows nothing of that, and deletes nothing that stays by any clock.
    store = Connection(url)
    clock.set(10)
    assert store.expire(TTL).events == 0
    store.close()


def test_a_process_that_begins_goes_by_the_clock(url: str, clock: HostClock) -> None:
    store = Connection(url)
    store.record_events([clock.event("now")], [make_letter("a")])
    clock.set(365)
    assert store.expire(TTL).events == 1
    assert store.clear_expired_dead_letters(TTL) == 1
    store.close()


def test_panko_s_own_method_does_as_it_is_told(url: str, clock: HostClock) -> None:
    store = Connection(url)
    store.record_events([clock.event("now")])
    clock.set(365)
    assert store.clear_expired_data(TTL) == 1
    store.close()


@pytest.mark.parametrize("layout_", ["plain", "partitioned"])
@pytest.mark.postgresql
def test_the_newest_event_is_found_by_an_index(postgresql_url: str, layout_: str, clock: HostClock) -> None:
    store = layout(postgresql_url, layout_)
    store.upgrade()
    store.record_events([clock.event(f"m{number}", number / 100) for number in range(3000)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    plans: list[Any] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ORDER BY event.generated DESC" in statement and not statement.startswith("EXPLAIN"):
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    sa.event.listen(store.engine, "before_cursor_execute", explain)
    assert store.expire(TTL).events == 0
    clock.set(365)
    with pytest.raises(ClockDoubted):
        store.expire(TTL)
    assert plans
    assert "Index" in plans[0]
    assert layout_ == "partitioned" or "Sort" not in plans[0]
    store.close()
