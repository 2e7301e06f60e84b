"""``db merge`` tells of what came over changed or not at all, and why; all else is as it was there."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.cli.main import main
from panko_ingest.storage import DeadLetterFilter, EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.schema import partitions
from tests.integration.storage.samples import (
    count,
    ignored_progress,
    make_event,
    make_events,
    make_letter,
    rows,
    stored_ids,
)

DAY = datetime.timedelta(days=1)
OLD = "2026-01-02 03:04:05.678901"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Connection]:
    """The database to merge from."""
    connection = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    connection.upgrade()
    yield connection
    connection.close()


def url_of(store: Connection) -> str:
    return store.engine.url.render_as_string(hide_password=False)


def said_by_merge(
    into: Connection, other: Connection, folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Run the command; return its exit code and the lines that it printed."""
    configuration, theirs = folder / "panko-ingest.conf", folder / "theirs"
    configuration.write_text(f"[database]\nconnection = {url_of(into)}\n")
    theirs.write_text(url_of(other))
    code = main(["--config-file", str(configuration), "db", "merge", "--from-file", str(theirs)])
    return code, capsys.readouterr().out.splitlines()


RAWS = ['["a", {"b": 1.5}]', '"text"', "17", "0", "false", "[]", '{"a":{"b":[1,null]}}']


def test_a_raw_that_is_no_object_comes_over_as_it_is(source: Connection, store: Connection) -> None:
    source.record_events(make_events(len(RAWS)))
    with source.engine.begin() as connection:
        for number, raw in enumerate(RAWS):
            connection.execute(
                sa.text("UPDATE event SET raw = :raw WHERE message_id = :id"),
                {"raw": raw, "id": f"m{number:04}"},
            )

    merged = store.merge(url_of(source), ignored_progress)

    assert (merged.recorded, merged.refused) == (len(RAWS), [])
    found = [row.raw for row in rows(store, "SELECT raw FROM event ORDER BY message_id")]
    assert [raw.replace(" ", "") for raw in found] == [raw.replace(" ", "") for raw in RAWS]


def test_a_raw_that_is_no_object_of_an_event_with_a_trait_that_does_not_fit_is_kept_beside_the_reason(
    source: Connection, store: Connection
) -> None:
    source.record_events([make_event(1)])
    with source.engine.begin() as connection:
        connection.execute(sa.text("UPDATE event SET raw = '[1, 2]'"))
        connection.execute(sa.text("UPDATE trait_text SET value = :long"), {"long": "x" * 300})

    merged = store.merge(url_of(source), ignored_progress)

    assert (merged.recorded, merged.refused) == (1, [])
    (event,) = store.get_events(EventFilter(salvaged=True))
    assert event.raw["raw"] == [1, 2]


def events_of_two_days(*numbers: int) -> list[Event]:
    """Return two events for each number, of one message_id and two days."""
    events = make_events(max(numbers) + 1)
    return [
        Event(one.message_id, one.event_type, one.generated + day, list(one.traits), {})
        for number in numbers
        for one in (events[number],)
        for day in (0 * DAY, 40 * DAY)
    ]


@pytest.mark.postgresql
def test_events_of_one_message_id_on_two_days_are_not_said_to_be_here_where_only_one_can_be(
    partitioned_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Connection(partitioned_url)
    other.record_events(events_of_two_days(3, 5))
    other.record_events(make_events(10, 20))
    plain = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    plain.upgrade()
    plain.record_events(make_events(2, 20))
    left_out = [
        "2 events are left out: another event has their message_id here, where one can have it",
        "left out: m0003, of 2026-04-10",
        "left out: m0005, of 2026-04-10",
    ]

    code, said = said_by_merge(plain, other, tmp_path, capsys)
    assert said[0] == "14 events there: 10 are new here, 2 were here already, 0 can't be stored"
    assert said[2:] == left_out
    assert code == 1
    assert len(stored_ids(plain)) == 12

    code, said = said_by_merge(plain, other, tmp_path, capsys)
    assert said[0] == "14 events there: 0 are new here, 12 were here already, 0 can't be stored"
    assert said[2:] == left_out
    assert code == 1
    other.close()
    plain.close()


def test_an_event_of_another_day_is_here_only_if_one_of_its_day_is(
    source: Connection, store: Connection
) -> None:
    """Where days are partitions, another month's has room beside it, and another day's has not."""
    theirs, near, far = make_events(3)
    ours = [theirs, *(Event(one.message_id, one.event_type, one.generated) for one in (near, far))]
    ours[1].generated += DAY
    ours[2].generated += 400 * DAY
    source.record_events([theirs, near, far])
    store.record_events(ours)

    merged = store.merge(url_of(source), ignored_progress)

    with store.engine.connect() as connection:
        partitioned = partitions.exist(connection)
    expected = [("m0001", near.generated), ("m0002", far.generated)][: 1 if partitioned else 2]
    assert merged.left_out == expected
    assert merged.recorded == int(partitioned)


def test_an_event_is_here_only_if_the_one_here_has_its_type_and_time(
    source: Connection, store: Connection
) -> None:
    theirs = make_events(4)
    ours = [
        theirs[0],
        Event("m0001", "identity.user.deleted", theirs[1].generated),
        Event("m0002", theirs[2].event_type, theirs[2].generated + DAY / 86400),
    ]
    source.record_events(theirs)
    store.record_events(ours)

    for new in (1, 0):
        merged = store.merge(url_of(source), ignored_progress)
        assert (merged.recorded, merged.refused) == (new, [])
        assert merged.left_out == [(event.message_id, event.generated) for event in theirs[1:3]]


def test_traits_that_were_changed_to_fit_are_counted_and_told(
    source: Connection, tmp_path: Path, store: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    source.record_events([*make_events(5), make_event(5, Trait("note", Trait.TEXT_TYPE, "x"))])
    with source.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE trait_text SET value = :long WHERE value IN ('state 1', 'state 5', 'x')"),
            {"long": "y" * 300},
        )

    code, said = said_by_merge(store, source, tmp_path, capsys)
    assert (code, said[2:]) == (
        0,
        ["3 traits were changed or dropped, so that their events could be stored: events list --salvaged"],
    )
    assert [event.message_id for event in store.get_events(EventFilter(salvaged=True))] == ["m0001", "m0005"]

    code, said = said_by_merge(store, source, tmp_path, capsys)
    assert (code, said[2:]) == (0, [])


# Where two can write at a time.
@pytest.mark.parametrize(
    "database_url",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
def test_a_dead_letter_that_a_daemon_stores_meanwhile_keeps_its_times_and_is_not_new(
    source: Connection, store: Connection
) -> None:
    source.record_events([], [make_letter("both"), make_letter("theirs")])
    with source.engine.begin() as connection:
        connection.execute(sa.text("UPDATE dead_letter SET first_at = :old, last_at = :old"), {"old": OLD})
    daemon = Connection(url_of(store))

    def store_meanwhile(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO dead_letter") and not count(store, "dead_letter"):
            daemon.record_events([], [make_letter("both")])

    sa.event.listen(store.engine, "before_cursor_execute", store_meanwhile)
    merged = store.merge(url_of(source), ignored_progress)

    assert (merged.letters, merged.new_letters) == (2, 1)
    seen = {
        found.letter.digest.rstrip(b"."): found.last_at.isoformat(" ")
        for summary in store.get_dead_letters(DeadLetterFilter())
        if (found := store.get_dead_letter(summary.id))
    }
    assert seen.pop(b"theirs") == OLD
    assert seen.pop(b"both") > OLD, "or it would expire too soon"
    daemon.close()


def test_a_message_id_that_not_every_database_holds_costs_no_other_event(
    source: Connection, store: Connection
) -> None:
    source.record_events(make_events(4))
    with source.engine.begin() as connection:
        connection.execute(sa.text("UPDATE event SET message_id = 'a' || char(0) || 'b' WHERE id = 2"))

    merged = store.merge(url_of(source), ignored_progress)

    assert merged.recorded + len(merged.refused) == 4
    assert [name for name, _ in merged.refused] in ([], ["a\0b"])
    again = store.merge(url_of(source), ignored_progress)
    assert (again.recorded, again.refused, again.left_out) == (0, merged.refused, [])
