"""What nobody foresaw costs the events at fault, and nobody else's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings, strategies as st

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Trait
from panko_ingest.storage.recording.validation import Row
from panko_ingest.storage.recording.writers.portable import TypeIds
from panko_ingest.storage.recording.writers.sqlite import SqliteWriter
from tests.integration.storage.samples import (
    counts,
    letter_for,
    make_event,
    make_events,
    make_letter,
    rows,
    stored_ids,
)


class Breaking(SqliteWriter):
    """Breaks on whatever events it is told to."""

    deadly: frozenset[str] = frozenset()

    def insert(self, connection: sa.Connection, rows: Sequence[Row], type_ids: TypeIds) -> None:
        super().insert(connection, rows, type_ids)
        if any(row.message_id in self.deadly for row in rows):
            raise KeyError("nobody foresaw this")


class Unspeakable:
    def __str__(self) -> str:
        raise KeyError("nor this")


@pytest.fixture
def writer() -> Breaking:
    return Breaking()


@pytest.fixture
def store(tmp_path: Path, writer: Breaking) -> Iterator[Connection]:
    connection = Connection(f"sqlite:///{tmp_path}/events.sqlite")
    connection.upgrade()
    yield connection
    connection.close()


def use(store: Connection, writer: Breaking) -> None:
    store._recorder._learned = store._recorder._learn()._replace(writer=writer)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_only_the_events_that_break_the_writer_become_dead_letters(
    store: Connection, writer: Breaking, count: int, deadly: set[int], known: set[int]
) -> None:
    store.clear()
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM dead_letter"))
    everything, events = set(range(count)), make_events(count)
    deadly &= everything
    known = (known & everything) - deadly
    store.record_events([events[index] for index in sorted(known)])
    use(store, writer)
    writer.deadly = frozenset(events[index].message_id for index in deadly)

    result = store.record_events(events, [make_letter("given")], letter_for)

    assert set(result.recorded) == everything - deadly - known
    assert set(result.duplicates) == known
    assert {index for index, _ in result.failed} == deadly
    assert stored_ids(store) == sorted(events[index].message_id for index in everything - deadly)
    assert counts(store)["dead_letter"] == 1 + len(deadly)


def test_a_store_in_which_every_event_breaks_is_no_fault_of_an_event(
    store: Connection, writer: Breaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(store, writer)

    def broken(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(writer, "insert", broken)
    with pytest.raises(StorageUnavailable, match="a fault of ours") as caught:
        store.record_events(make_events(3), on_failure=letter_for)
    assert caught.value.operator
    assert counts(store)["dead_letter"] == 0


def test_an_event_that_cannot_even_be_looked_at_fails_alone(store: Connection) -> None:
    events = make_events(3)
    events[1].traits.append(Trait("word", Trait.TEXT_TYPE, Unspeakable()))  # type: ignore[arg-type]

    result = store.record_events(events, on_failure=letter_for)

    assert result.recorded == (0, 2)
    assert rows(store, "SELECT error_class FROM dead_letter") == [("KeyError",)]


def test_a_dead_letter_that_breaks_recording_goes_without_its_headers(store: Connection) -> None:
    odd: DeadLetter = make_letter("odd")
    odd.headers = {"x": Unspeakable()}

    result = store.record_events([make_event(1)], [make_letter("plain"), odd])

    assert result.recorded == (0,)
    ((error,),) = rows(store, "SELECT error FROM dead_letter WHERE error LIKE '%headers%'")
    assert "its headers are left out" in error
    assert counts(store)["dead_letter"] == 2
