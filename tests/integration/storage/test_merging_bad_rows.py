"""``db merge`` where rows are bad or huge: one costs itself alone and is named, and the counts are right."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.cli.main import main
from panko_ingest.storage import DeadLetterFilter, EventFilter, StorageUnavailable
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.settings import StorageSettings
from tests import legacy
from tests.integration.storage.samples import (
    START,
    count,
    ignored_progress,
    make_events,
    make_letter,
    rows,
    stored_ids,
)

KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
MEGABYTE = 1 << 20


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database to merge from, on each kind in turn."""
    if request.param == "sqlite":
        (tmp_path / "other.sqlite").touch()
        return f"sqlite:///{tmp_path}/other.sqlite"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Connection]:
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()
    yield store
    store.close()


def change(url: str, *statements: str) -> None:
    """Run statements in a database, with whatever values they write."""
    engine = make_engine(url, StorageSettings())
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def fill(url: str, events: int) -> None:
    """Make a store of ours with so many events and three dead letters."""
    store = Connection(url)
    store.upgrade()
    store.record_events(make_events(events), [make_letter(name) for name in ("one", "two", "three")])
    store.close()


def panko(url: str) -> None:
    """Make a database of Panko's with 200 events."""
    engine = make_engine(url, StorageSettings())
    with engine.begin() as connection:
        legacy.make(connection, "panko")
        legacy.fill(connection, "panko")
    engine.dispose()


def test_an_event_without_message_id_beside_a_refused_one_is_new_only_once(
    source: str, target: Connection
) -> None:
    panko(source)
    change(
        source,
        "UPDATE event SET message_id = NULL WHERE id IN (7, 9)",
        "UPDATE event SET event_type_id = NULL WHERE id IN (8, 9)",
    )

    merged = target.merge(source, ignored_progress)
    assert (merged.events, merged.recorded, merged.named) == (200, 198, 1)
    refused = [name for name, _ in merged.refused]
    assert refused == ["8f7c3a1e-0000-4000-8000-000000000008", "row 9 of event"]

    for _ in range(2):
        again = target.merge(source, ignored_progress)
        assert (again.events, again.recorded, again.named, again.refused) == (200, 0, 1, merged.refused)
        assert count(target, "event") == 198


def test_what_is_here_with_another_time_is_not_new_beside_a_refused_event(
    tmp_path: Path, store: Connection
) -> None:
    other = f"sqlite:///{tmp_path}/other.sqlite"
    fill(other, 10)
    change(
        other,
        "INSERT INTO event_type (id, desc) VALUES (77, ' ')",
        "UPDATE event SET event_type_id = 77 WHERE id = 10",
        "UPDATE event SET generated = '2026-03-02 01:02:03.000000' WHERE id <= 5",
    )
    store.record_events(make_events(5))
    # Where each day has a partition, an id and a day tell an event apart.
    new = 9 if "partitioned" in str(store.check()) else 4

    merged = store.merge(other, ignored_progress)
    assert (merged.recorded, len(merged.refused)) == (new, 1)
    assert count(store, "event") == 5 + new
    again = store.merge(other, ignored_progress)
    assert (again.recorded, len(again.refused)) == (0, 1)


UNREADABLE = {
    "sqlite": (
        "UPDATE event SET generated = 'no time' WHERE id = 3",
        "UPDATE trait_datetime SET value = 'never' WHERE event_id = 700",
        "UPDATE trait_text SET value = CAST(x'ff80' AS TEXT) WHERE event_id = 701",
        "UPDATE event SET message_id = CAST(x'6dff80' AS TEXT) WHERE id = 1100",
        "UPDATE dead_letter SET last_at = 'never' WHERE id = 2",
    ),
    "postgresql": (
        "UPDATE event SET generated = 'infinity' WHERE id = 3",
        "UPDATE trait_datetime SET value = '-infinity' WHERE event_id = 700",
        "UPDATE trait_datetime SET value = '0044-03-15 12:00:00 BC' WHERE event_id = 701",
        "UPDATE event SET generated = '12345-01-01' WHERE id = 1100",
        "UPDATE dead_letter SET last_at = 'infinity' WHERE id = 2",
    ),
    "mysql": (
        "UPDATE event SET `generated` = 99999999999999.5 WHERE id = 3",
        "UPDATE trait_datetime SET value = -999999999999.5 WHERE event_id = 700",
        "UPDATE trait_datetime SET value = 99999999999999.5 WHERE event_id = 701",
        "UPDATE event SET `generated` = -99999999999999.5 WHERE id = 1100",
        "UPDATE dead_letter SET last_at = 99999999999999.5 WHERE id = 2",
    ),
}


def test_a_value_that_can_not_be_read_costs_its_row_alone_which_is_named(
    source: str, target: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(source, 1500)
    change(source, *UNREADABLE[sa.make_url(source).get_backend_name()])

    merged = target.merge(source, ignored_progress)

    fourth = "row 1100 of event" if source.startswith("sqlite") else "m1099"
    assert (merged.events, merged.recorded) == (1500, 1496)
    assert sorted(name for name, _ in merged.refused) == sorted(["m0002", "m0699", "m0700", fourth])
    assert all(reason.startswith("it can't be read: ") for _, reason in merged.refused)
    assert len(stored_ids(target)) == 1496
    assert (merged.letters, merged.new_letters) == (3, 2)
    assert [name for name, _ in merged.refused_letters] == ["row 2 of dead_letter"]

    configuration, theirs = tmp_path / "panko-ingest.conf", tmp_path / "theirs"
    configuration.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/ours.sqlite\n")
    theirs.write_text(source)
    assert main(["--config-file", str(configuration), "db", "merge", "--from-file", str(theirs)]) == 1
    said = capsys.readouterr().out
    assert "1500 events there: 0 are new here, 1496 were here already, 4 can't be stored\n" in said
    assert "3 dead letters there: 0 are new here\n1 dead letters can't be stored\n" in said
    assert "not stored: m0699: it can't be read: " in said
    assert "not stored: row 2 of dead_letter: it can't be read: " in said


def test_a_name_of_a_type_that_can_not_be_read_costs_the_events_of_that_type_alone(
    tmp_path: Path, target: Connection
) -> None:
    other = f"sqlite:///{tmp_path}/other.sqlite"
    fill(other, 20)
    change(
        other,
        "INSERT INTO event_type (id, desc) VALUES (77, CAST(x'ff80' AS TEXT))",
        "UPDATE event SET event_type_id = 77 WHERE id IN (4, 5)",
    )
    merged = target.merge(other, ignored_progress)
    assert (merged.recorded, sorted(name for name, _ in merged.refused)) == (18, ["m0003", "m0004"])


def test_a_dead_letter_that_is_refused_here_costs_itself_alone(tmp_path: Path, target: Connection) -> None:
    other = f"sqlite:///{tmp_path}/other.sqlite"
    fill(other, 1)
    change(
        f"sqlite:///{tmp_path}/ours.sqlite",
        "CREATE TRIGGER no_two BEFORE INSERT ON dead_letter WHEN new.digest > x'747700' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END",
    )
    merged = target.merge(other, ignored_progress)
    assert (merged.letters, merged.new_letters) == (3, 2)
    assert merged.refused_letters == [("row 3 of dead_letter", "not this one")]


def test_many_dead_letters_are_new_only_once(tmp_path: Path, store: Connection) -> None:
    source = f"sqlite:///{tmp_path}/other.sqlite"
    other = Connection(source)
    other.upgrade()
    other.record_events([], [make_letter(f"letter {number}") for number in range(56)])
    with other.engine.begin() as connection:
        # A digest of another length than ours, which MySQL fills up.
        connection.execute(
            sa.text("UPDATE dead_letter SET digest = :short WHERE id = 5"), {"short": b"short"}
        )
    other.close()
    merged = store.merge(source, ignored_progress)
    assert (merged.letters, merged.new_letters, merged.refused_letters) == (56, 56, [])
    assert store.merge(source, ignored_progress).new_letters == 0
    assert store.count_dead_letters(DeadLetterFilter()) == 56


def test_events_with_more_traits_than_are_read_at_once_come_over_whole(
    source: str, target: Connection
) -> None:
    other = Connection(source)
    other.upgrade()
    traits = [Trait(f"key {number}", Trait.TEXT_TYPE, f"value {number}") for number in range(400)]
    for start in range(0, 80, 20):
        other.record_events([Event(f"m{start + one}", "t", START, traits) for one in range(20)])
    other.close()
    assert target.merge(source, ignored_progress).recorded == 80
    assert count(target, "trait_text") == 32_000
    event = next(iter(target.get_events(EventFilter(message_id="m33"))))
    assert sorted(event.traits) == sorted(traits)


MERGE = """
import sys
from panko_ingest.storage.impl_sqlalchemy import Connection

def peak() -> int:
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

store = Connection(sys.argv[1])
store.ping()
before = peak()
merged = store.merge(sys.argv[2], lambda done, total: None)
print(merged.recorded, merged.new_letters, peak() - before)
"""


def test_memory_does_not_grow_with_what_the_rows_hold(tmp_path: Path, mariadb_url: str) -> None:
    other = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    other.upgrade()
    raw = {"payload": {f"name {number}": f"some value {number}" for number in range(8000)}}
    for start in range(0, 200, 10):
        events = make_events(10, start)
        for event in events:
            event.raw = raw
        other.record_events(events)
    for number in range(20):
        other.record_events([], [make_letter(f"letter {number}", b"\xff" * 4 * MEGABYTE)])
    other.close()
    ours = Connection(mariadb_url)
    ours.upgrade()
    ours.close()

    command = [sys.executable, "-c", MERGE, mariadb_url, f"sqlite:///{tmp_path}/other.sqlite"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    recorded, letters, grown = map(int, said.split())
    assert (recorded, letters) == (200, 20)
    assert grown < 100


def test_what_was_cut_to_fit_is_copied_as_it_is_and_told_once(mariadb_url: str, mariadb: object) -> None:
    url = mariadb.create_database()  # type: ignore[attr-defined]
    other, ours = Connection(url), Connection(mariadb_url)
    other.upgrade()
    ours.upgrade()
    other.record_events([], [make_letter("long", b"\xff" * 20 * MEGABYTE)])
    ours.merge(url, ignored_progress)
    looked_at = "SELECT error, length(body) FROM dead_letter"
    (cut,) = rows(other, looked_at)
    assert cut.error.startswith("is no JSON (only the first ")
    assert cut.error.endswith(f" of its {20 * MEGABYTE} bytes fit into the database)")
    assert rows(ours, looked_at) == [cut]
    other.close()
    ours.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE trait_float", "it has no table trait_float"),
        (
            "ALTER TABLE event DROP COLUMN raw",
            "the table event is another service's or too old, for it has no raw",
        ),
        ("DROP TABLE dead_letter", ""),
        (
            "ALTER TABLE dead_letter DROP COLUMN body",
            "the table dead_letter is another service's or too old, for it has no body",
        ),
    ],
)
def test_what_the_other_database_lacks_is_told_of_that_one_without_advice_for_ours(
    source: str, target: Connection, statement: str, said: str
) -> None:
    fill(source, 3)
    change(source, statement)
    if not said:
        assert target.merge(source, ignored_progress).recorded == 3
        return
    with pytest.raises(StorageUnavailable) as caught:
        target.merge(source, ignored_progress)
    assert str(caught.value) == f"db merge: --from: {said}"
    assert caught.value.operator


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_login_that_is_refused_there_is_told_of_that_one(
    request: pytest.FixtureRequest, kind: str, target: Connection
) -> None:
    url = sa.make_url(request.getfixturevalue(f"{kind}_url")).set(username="nobody", password="s3cret")
    with pytest.raises(StorageUnavailable, match=r"^db merge: --from: ") as caught:
        target.merge(url.render_as_string(hide_password=False), ignored_progress)
    assert "[database] connection" not in str(caught.value)
    assert "db sync" not in str(caught.value)
