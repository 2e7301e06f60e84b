"""Dead letters as they are read and deleted, on every database."""

import dataclasses
import datetime
import hashlib
import random
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from panko_ingest.storage import DeadLetterFilter, InvalidRequest, tables
from panko_ingest.storage.expiry.batches import AtOnce
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter
from panko_ingest.storage.recording import dead_letters as recording

NOW = datetime.datetime(2026, 5, 1, 12, 0)


def letter(number: int) -> DeadLetter:
    return DeadLetter(
        digest=hashlib.sha256(str(number).encode()).digest(),
        body=b"\x00\xffbody " + str(number).encode(),
        stage="decode" if number % 2 else "convert",
        error_class="DecodeError" if number % 2 else "ConvertError",
        error=f"100% wrong: field_{number} is missing",
        content_type="application/json",
        headers={"x-n": number},
        queue="notifications.info",
        message_id=f"m{number}",
        event_type=None if number % 2 else f"compute.instance.{number}",
    )


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    """A store with six dead letters, last seen an hour apart."""
    connection = Connection(database_url)
    connection.upgrade()
    for number in range(6):
        connection.record_events([], [letter(number)])
        with connection.engine.begin() as session:
            session.execute(
                sa.update(tables.DeadLetter)
                .where(tables.DeadLetter.digest == letter(number).digest)
                .values(last_at=NOW + datetime.timedelta(hours=number))
            )
    yield connection
    connection.close()


def found(store: Connection, which: DeadLetterFilter, limit: int | None = None) -> list[str | None]:
    return [summary.message_id for summary in store.get_dead_letters(which, limit)]


def test_dead_letters_are_listed_the_last_first_and_no_more_than_asked_for(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(store, DeadLetterFilter()) == ["m5", "m4", "m3", "m2", "m1", "m0"]
    assert found(store, DeadLetterFilter(), limit=4) == ["m5", "m4", "m3", "m2"]
    assert found(store, DeadLetterFilter(), limit=0) == []
    monkeypatch.setattr("panko_ingest.storage.reading.dead_letters._BATCH", 2)
    assert found(store, DeadLetterFilter()) == ["m5", "m4", "m3", "m2", "m1", "m0"]
    assert found(store, DeadLetterFilter(), limit=3) == ["m5", "m4", "m3"]


def test_every_filter_of_dead_letters_holds(store: Connection) -> None:
    cases = {
        "m5 m3 m1": DeadLetterFilter(stage="decode"),
        "m4 m2 m0": DeadLetterFilter(event_type="compute.*"),
        "m4": DeadLetterFilter(event_type="compute.instance.?", error="field_4"),
        "": DeadLetterFilter(event_type="compute_instance%"),
        "  ": DeadLetterFilter(event_type="COMPUTE.*"),
        "m4 m2 m0 ": DeadLetterFilter(error="ConvertError"),
        "m5 m4 m3 m2 m1 m0": DeadLetterFilter(error="100% wrong"),
        " ": DeadLetterFilter(error="field%"),
        "m5 m4": DeadLetterFilter(seen_since=NOW + datetime.timedelta(hours=4)),
        "m0": DeadLetterFilter(seen_before=NOW + datetime.timedelta(hours=1)),
    }
    for expected, which in cases.items():
        assert found(store, which) == expected.split(), which
        assert store.count_dead_letters(which) == len(expected.split())


@pytest.mark.parametrize("name", ["stage", "event_type", "error"])
def test_a_blank_filter_of_dead_letters_does_not_stand_for_all_of_them(store: Connection, name: str) -> None:
    for blank in ("", " "):
        which = dataclasses.replace(DeadLetterFilter(), **{name: blank})  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="is blank"):
            store.delete_dead_letters(which)
        with pytest.raises(InvalidRequest, match="is blank"):
            found(store, which)
    assert store.count_dead_letters(DeadLetterFilter()) == 6


def test_a_dead_letter_that_comes_again_by_a_host_whose_clock_is_behind_was_seen_no_earlier(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "utc_now", lambda: datetime.datetime(2020, 1, 1))
    store.record_events([], [letter(5)])
    (again,) = store.get_dead_letters(DeadLetterFilter(error="field_5"))
    assert again.attempts == 2
    assert again.last_at >= NOW + datetime.timedelta(hours=5)


def test_a_dead_letter_is_shown_with_the_bytes_that_were_delivered(store: Connection) -> None:
    summary = next(iter(store.get_dead_letters(DeadLetterFilter(error="field_3"))))
    stored = store.get_dead_letter(summary.id)
    assert stored is not None
    assert stored.letter == letter(3)
    assert stored.attempts == summary.attempts == 1
    assert summary.size == len(letter(3).body)
    assert store.get_dead_letter(0) is None


def test_only_dead_letters_that_the_filter_chooses_are_purged(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AtOnce, "_rows", 2)
    assert store.delete_dead_letters(DeadLetterFilter(stage="decode")) == (3, 0, "")
    assert found(store, DeadLetterFilter()) == ["m4", "m2", "m0"]
    ids = [summary.id for summary in store.get_dead_letters(DeadLetterFilter())]
    assert store.delete_dead_letters(DeadLetterFilter(ids=iter(ids[:1]))).deleted == 1  # type: ignore[arg-type]
    assert found(store, DeadLetterFilter()) == ["m2", "m0"]
    assert store.delete_dead_letters(DeadLetterFilter()).deleted == 2
    assert store.delete_dead_letters(DeadLetterFilter()).deleted == 0


def test_dead_letters_are_deleted_no_more_bytes_at_once_than_a_cluster_takes(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panko_ingest.storage.reading.dead_letters._MOST_BYTES", 3 * len(letter(0).body))
    statements: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    ways: list[Callable[[], int]] = [
        lambda: store.delete_dead_letters(DeadLetterFilter()).deleted,
        lambda: store.clear_expired_dead_letters(0),
    ]
    for delete in ways:
        store.record_events([], [letter(number) for number in range(30)])
        statements.clear()
        assert delete() == 30
        assert sum("DELETE" in one for one in statements) >= 10


def test_purging_by_a_filter_looks_at_each_dead_letter_once(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record_events([], [letter(number) for number in range(100)])
    monkeypatch.setattr(AtOnce, "_rows", 10)
    statements: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    assert store.delete_dead_letters(DeadLetterFilter(stage="decode")).deleted == 50
    assert sum("DELETE" in one for one in statements) == 10
    assert store.count_dead_letters(DeadLetterFilter()) == 50


def test_a_dead_letter_keeps_its_whole_body_where_packets_of_the_server_allow_it(database_url: str) -> None:
    connection = Connection(database_url)
    connection.upgrade()
    body = random.Random(1).randbytes(12_000_000)
    connection.record_events([], [dataclasses.replace(letter(1), body=body)])
    (summary,) = connection.get_dead_letters(DeadLetterFilter())
    stored = connection.get_dead_letter(summary.id)
    assert stored is not None
    assert stored.letter.body == body
    assert "fit into the database" not in stored.letter.error
    connection.close()


@pytest.mark.mariadb
def test_a_body_that_no_packet_of_the_server_takes_is_cut_and_that_is_said(mariadb_url: str) -> None:
    connection = Connection(mariadb_url)
    connection.upgrade()
    for _ in range(2):
        connection.record_events([], [dataclasses.replace(letter(1), body=b"x" * 17_000_000)])
    (summary,) = connection.get_dead_letters(DeadLetterFilter())
    assert 16_000_000 < summary.size < 2**24
    assert summary.attempts == 2
    assert f"only the first {summary.size} of its 17000000 bytes fit into the database" in summary.error
    connection.close()
