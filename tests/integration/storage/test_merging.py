"""``db merge``: what another event database has comes into ours, whatever made it and wherever it is."""

import dataclasses
import datetime
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from panko_ingest.errors import ConfigError
from panko_ingest.storage import DeadLetterFilter, EventFilter, StorageUnavailable
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.settings import StorageSettings
from tests import legacy
from tests.integration.storage.samples import (
    count,
    ignored_progress,
    make_events,
    make_letter,
    rows,
    stored,
    stored_ids,
)
from tests.services import PostgreSQL
from tests.waiting import wait_until


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("partitioned", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """Another store of ours, on each kind of database in turn, with 30 events and 2 dead letters."""
    kind = request.param
    url = f"sqlite:///{tmp_path}/other.sqlite" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    connection = Connection(url)
    connection.upgrade()
    connection.record_events(make_events(30), [make_letter("one"), make_letter("two", b"x" * 100_000)])
    connection.record_events([], [make_letter("one")])
    yield connection
    connection.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def ours(request: pytest.FixtureRequest, other: Connection) -> Iterator[Connection]:
    """The store to merge into, on each kind of database in turn, with 20 events, 10 of them in common."""
    if request.param == "mariadb" and other.engine.dialect.name == "mysql":
        url = request.getfixturevalue("mariadb").create_database()
    elif request.param == "postgresql" and other.engine.dialect.name == "postgresql":
        url = request.getfixturevalue("postgresql").create_database()
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    connection = Connection(url)
    connection.upgrade()
    connection.record_events(make_events(20, 20))
    yield connection
    connection.close()


def url_of(store: Connection) -> str:
    return store.engine.url.render_as_string(hide_password=False)


def letters(store: Connection) -> list[tuple[object, ...]]:
    statement = (
        "SELECT digest, body, stage, error, first_at, last_at, attempts FROM dead_letter ORDER BY digest"
    )
    return [tuple(row) for row in rows(store, statement)]


def test_events_and_dead_letters_come_over_once_between_all_kinds_of_databases(
    other: Connection, ours: Connection
) -> None:
    told: list[tuple[int, int]] = []

    merged = ours.merge(url_of(other), lambda done, total: told.append((done, total)))

    assert (merged.events, merged.recorded, merged.letters, merged.new_letters) == (30, 20, 2, 2)
    assert told == [(30, 30)]
    assert stored(ours) == [one for one in make_events(40) if one.traits.sort() is None]
    if other.engine.dialect.name == ours.engine.dialect.name:
        assert letters(ours) == letters(other)
    assert [letter.attempts for letter in ours.get_dead_letters(DeadLetterFilter())].count(2) == 1

    again = ours.merge(url_of(other), ignored_progress)
    assert (again.recorded, again.new_letters, again.refused) == (0, 0, [])
    assert len(stored_ids(ours)) == 40
    assert [letter.attempts for letter in ours.get_dead_letters(DeadLetterFilter())].count(2) == 1


@pytest.mark.parametrize("shape", legacy.SHAPES)
@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_databases_of_panko_and_ceilometer_are_read_as_they_are(
    request: pytest.FixtureRequest, kind: str, shape: str, tmp_path: Path
) -> None:
    source: str = request.getfixturevalue(f"{kind}_url")
    engine = make_engine(source, StorageSettings())
    with engine.begin() as connection:
        legacy.make(connection, shape)
        legacy.fill(connection, shape)
        connection.execute(sa.text("UPDATE event SET message_id = NULL WHERE id IN (7, 8)"))
    engine.dispose()
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()

    # As a panko.conf may name it, for a driver that is not here.
    scheme, _, rest = source.partition("://")
    driver = {"postgresql": "+psycopg2", "mysql": "+mysqldb"}.get(scheme, "")
    merged = store.merge(f"{scheme}{driver}://{rest}", ignored_progress)

    assert (merged.events, merged.recorded, merged.named, merged.refused) == (200, 200, 2, [])
    found = {one.message_id: one for one in store.get_events(EventFilter())}
    event = found["8f7c3a1e-0000-4000-8000-000000000009"]
    assert event.event_type == "compute.instance.update"
    assert event.generated == legacy.START + datetime.timedelta(minutes=63)
    assert {trait.name: trait.value for trait in event.traits} == {
        "project_id": "p2",
        "display_name": "größe ☃",
        "memory_mb": 90_000_000,
        "load": 3.0,
        "launched_at": event.generated,
    }
    assert event.raw == {"payload": {"name": "café", "at": [1, 2.5, None]}}
    assert store.merge(source, ignored_progress).recorded == 0
    assert count(store, "event") == 200
    store.close()


def test_a_row_whose_raw_was_cut_off_comes_over_and_says_so(tmp_path: Path, target: Connection) -> None:
    url = f"sqlite:///{tmp_path}/other.sqlite"
    other = Connection(url)
    other.upgrade()
    other.record_events([dataclasses.replace(one, raw={"a": "b" * 99}) for one in make_events(1500)])
    with other.engine.begin() as connection:
        connection.execute(sa.text("UPDATE event SET raw = substr(raw, 1, 20) WHERE id = 3"))
    other.close()

    merged = target.merge(url, ignored_progress)

    assert (merged.events, merged.recorded, merged.refused) == (1500, 1500, [])
    found = {one.message_id: one.raw for one in target.get_events(EventFilter())}
    assert found["m0001"] == {"a": "b" * 99}
    assert [one for one in found.values() if "no whole JSON" in str(one)] == [found["m0002"]]


def test_one_event_that_can_not_be_stored_costs_itself_alone_and_the_counts_say_so(
    tmp_path: Path, target: Connection
) -> None:
    url = f"sqlite:///{tmp_path}/other.sqlite"
    other = Connection(url)
    other.upgrade()
    other.record_events(make_events(1500))
    with other.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO event_type (id, desc) VALUES (77, ' ')"))
        connection.execute(sa.text("UPDATE event SET event_type_id = 77 WHERE id IN (3, 1200)"))
    other.close()

    merged = target.merge(url, ignored_progress)

    assert (merged.events, merged.recorded) == (1500, 1498)
    assert sorted(message_id for message_id, _ in merged.refused) == ["m0002", "m1199"]
    assert len(stored_ids(target)) == 1498
    again = target.merge(url, ignored_progress)
    assert (again.recorded, len(again.refused)) == (0, 2)


@pytest.mark.postgresql
def test_of_several_hosts_one_that_only_can_be_read_from_is_merged(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    other = Connection(postgresql_url)
    other.upgrade()
    other.record_events(make_events(30))
    other.close()
    name = postgresql_url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()
    host = f"host=127.0.0.1:{postgresql.port}"
    both = f"postgresql://postgres@/{name}?{host}&{host}"
    with pytest.raises(StorageUnavailable, match="read-only"):
        store.merge(f"{both}&target_session_attrs=read-write", ignored_progress)
    assert store.merge(both, ignored_progress).recorded == 30
    store.close()


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, target: Connection) -> None:
    with pytest.raises(ConfigError, match=rf"--from: there is no file {tmp_path}/slip.sqlite"):
        target.merge(f"sqlite:///{tmp_path}/slip.sqlite", ignored_progress)
    assert not (tmp_path / "slip.sqlite").exists()


def test_a_database_is_not_merged_into_itself(sqlite_url: str) -> None:
    store = Connection(sqlite_url)
    store.upgrade()
    with pytest.raises(ConfigError, match="itself"):
        store.merge(sqlite_url, ignored_progress)
    store.close()


def command(ours: Path, *arguments: str, stdin: int | None = None) -> "subprocess.Popen[str]":
    configuration = ours / "panko-ingest.conf"
    configuration.write_text(f"[database]\nconnection = sqlite:///{ours}/ours.sqlite\n")
    return subprocess.Popen(
        [sys.executable, "-m", "panko_ingest", "--config-file", configuration, "db", "merge", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Connection]:
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()
    yield store
    store.close()


def test_the_command_takes_the_other_database_from_its_configuration_and_counts(
    target: Connection, tmp_path: Path
) -> None:
    other = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    other.upgrade()
    other.record_events([Event(f"m{number}", "t", datetime.datetime(2026, 1, 1)) for number in range(5)])
    other.close()
    theirs = tmp_path / "panko.conf"
    theirs.write_text(
        f"[DEFAULT]\ndebug = true\n[database]\nconnection = sqlite:///{tmp_path}/other.sqlite\n"
    )

    output, errors = (process := command(tmp_path, "--from-file", str(theirs))).communicate(timeout=60)

    assert process.returncode == 0, errors
    assert output.splitlines() == [
        "5 events there: 5 are new here, 0 were here already, 0 can't be stored",
        "0 dead letters there: 0 are new here",
    ]
    assert len(stored_ids(target)) == 5


@pytest.mark.parametrize(
    "text", ["[DEFAULT]\ndebug = true\n[database]\nconnection = {url}\n", "{url}\n"], ids=["a file", "a URL"]
)
def test_the_other_database_is_named_on_standard_input(target: Connection, tmp_path: Path, text: str) -> None:
    url = f"sqlite:///{tmp_path}/other.sqlite"
    other = Connection(url)
    other.upgrade()
    other.record_events(make_events(5))
    other.close()
    output, errors = command(tmp_path, "--from-file", "-", stdin=subprocess.PIPE).communicate(
        text.format(url=url), timeout=60
    )
    assert output.startswith("5 events there: 5 are new here"), errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", ""], "--from"),
        (["--from-file", "/dev/null"], "--from"),
        (["--from-file", "/nowhere/panko.conf"], "No such file"),
        (["--from", "oracle://u:s3cret@h/d"], "--from"),
    ],
)
def test_what_names_no_database_is_refused_in_one_line(
    target: Connection, tmp_path: Path, arguments: list[str], said: str
) -> None:
    process = command(tmp_path, *arguments)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert "s3cret" not in errors


def test_a_password_on_the_command_line_is_hidden_from_others(target: Connection, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = command(tmp_path, "--from", f"postgresql://panko:t0psecret@127.0.0.1:{port}/panko")
        server.settimeout(60)
        server.accept()[0].close()
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"merge" in shown
    assert b"t0psecret" not in shown
    assert "t0psecret" not in output + errors


def test_a_merge_that_was_killed_goes_on_when_it_is_run_again(target: Connection, tmp_path: Path) -> None:
    other = Connection(f"sqlite:///{tmp_path}/other.sqlite")
    other.upgrade()
    for start in range(0, 20_000, 5000):
        other.record_events(make_events(5000, start))
    other.close()
    process = command(tmp_path, "--from", f"sqlite:///{tmp_path}/other.sqlite")
    wait_until(lambda: count(target, "event") > 0, 60, "the first page to be copied")
    process.kill()
    process.communicate()
    assert 0 < count(target, "event") < 20_000

    merged = target.merge(f"sqlite:///{tmp_path}/other.sqlite", ignored_progress)

    assert merged.events == 20_000
    assert 0 < merged.recorded < 20_000
    assert count(target, "event") == 20_000
    assert count(target, "trait_text") == 20_000
