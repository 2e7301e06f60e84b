"""What a command meets that nobody foresaw is told in a line, without a secret, and ends it with a code."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from panko_ingest.cli import failures
from panko_ingest.cli.main import main
from panko_ingest.deadline import Asked
from panko_ingest.storage import DeadLetterFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import make_events, make_letter

REFUSE = {
    "sqlite": "CREATE TRIGGER refuse BEFORE {change} ON {table} BEGIN SELECT RAISE(ABORT, 'not today'); END",
    "mysql": "CREATE TRIGGER refuse BEFORE {change} ON {table} FOR EACH ROW "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'",
    "postgresql": "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "RAISE 'not today'; END $$; "
    "CREATE TRIGGER refuse BEFORE {change} ON {table} EXECUTE FUNCTION refuse()",
}
LOSE = {
    "mysql": "CREATE TRIGGER lose BEFORE {change} ON {table} FOR EACH ROW KILL CONNECTION_ID()",
    "postgresql": "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; "
    "CREATE TRIGGER lose BEFORE {change} ON {table} EXECUTE FUNCTION lose()",
}

ON_SERVERS = pytest.mark.parametrize(
    "database_url",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)


@pytest.fixture
def store(database_url: str) -> Iterator[Connection]:
    with contextlib.closing(Connection(database_url)) as store:
        store.upgrade()
        store.record_events(make_events(3), [make_letter("one")])
        yield store


Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def run(store: Connection, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command, and return its exit code and what it says on standard error."""
    path = tmp_path / "panko-ingest.conf"
    url = store.engine.url
    if url.get_backend_name() == "postgresql":  # which asks for none
        url = url.set(password="hidden")
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://127.0.0.1:1/\n"
        f"[database]\nconnection = {url.render_as_string(hide_password=False)}\n"
        "event_time_to_live = 1d\nmax_retries = 0\nlock_timeout = 0.2\n"
    )

    def call(command: str) -> tuple[int, str]:
        code = main(["--config-file", str(path), *command.split()])
        told = capfd.readouterr().err
        assert "hidden" not in told
        return code, told

    return call


def hurt(store: Connection, by: dict[str, str], change: str, table: str) -> None:
    statement = by[store.engine.dialect.name].format(change=change, table=table)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def assert_told_in_a_line(answer: tuple[int, str], code: int, words: str) -> None:
    assert answer[0] == code
    assert answer[1].startswith("panko-ingest: ")
    assert words in answer[1]
    assert answer[1].count("\n") == 1


def test_what_the_database_refuses_to_purge_is_no_error_and_told_with_its_reason(
    store: Connection, run: Run
) -> None:
    hurt(store, REFUSE, "DELETE", "dead_letter")
    assert run("dead-letters purge --all") == (1, "")
    done = store.delete_dead_letters(DeadLetterFilter())
    assert (done.deleted, done.kept) == (0, 1)
    assert "not today" in done.why


@ON_SERVERS
@pytest.mark.parametrize("command", ["expire", "db sync"])
def test_a_lease_that_the_database_refuses_is_told_in_a_line(
    store: Connection, run: Run, command: str
) -> None:
    hurt(store, REFUSE, "UPDATE", "panko_ingest_lease")
    assert_told_in_a_line(run(command), 3 if command == "db sync" else 1, "not today")


@ON_SERVERS
@pytest.mark.parametrize(
    ("table", "change", "command"),
    [
        ("dead_letter", "DELETE", "dead-letters purge --all"),
        ("event", "DELETE", "expire"),
        ("panko_ingest_lease", "UPDATE", "db sync"),
    ],
)
def test_a_connection_that_is_lost_in_mid_command_is_told_in_a_line(
    store: Connection, run: Run, table: str, change: str, command: str
) -> None:
    hurt(store, LOSE, change, table)
    assert_told_in_a_line(run(command), 3, "")


def test_an_error_that_nobody_foresaw_is_told_with_what_to_do() -> None:
    text, unreachable = failures.told(ZeroDivisionError("division by zero"))
    assert text.startswith(
        "nobody foresaw this: ZeroDivisionError: division by zero (run it again with --debug"
    )
    assert not unreachable


def test_a_question_that_fails_as_nobody_foresaw_tells_so_and_not_that_time_is_over() -> None:
    asked = Asked("it", lambda: 1 / 0, patience=30)
    assert asked.answer() is None
    assert asked.error == "it: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("command", ["db sync", "db sync --dry-run", "check"])
def test_a_file_of_sqlite_in_a_folder_that_is_absent_is_told_by_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://127.0.0.1:1/\n"
        f"[database]\nconnection = sqlite:///{tmp_path}/absent/events.sqlite\n"
    )
    assert main(["--config-file", str(path), *command.split()]) == (1 if command == "check" else 3)
    assert f"make its folder {tmp_path}/absent, for the daemon's user" in "".join(capfd.readouterr())
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status", 1),
        ("events list", 3),
        ("events show one", 3),
        ("events types", 3),
        ("dead-letters list", 3),
        ("db current", 1),
        ("db check", 3),
        ("expire", 3),
        ("expire --dry-run", 3),
    ],
)
def test_a_file_of_sqlite_that_is_not_there_is_told_and_not_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    (tmp_path / "panko-ingest.conf").write_text(
        f"[database]\nconnection = sqlite:///{tmp_path}/mistyped.sqlite\nevent_time_to_live = 1d\n"
        "[monitor]\nport = 0\n"
    )
    assert main(["--config-file", str(tmp_path / "panko-ingest.conf"), *command.split()]) == code
    assert f"{tmp_path}/mistyped.sqlite is not there (correct its name" in "".join(capfd.readouterr())
    assert not (tmp_path / "mistyped.sqlite").exists()


def test_a_file_of_sqlite_that_can_not_be_looked_for_is_left_to_sqlite(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/{'n' * 300}.sqlite\n")
    assert main(["--config-file", str(path), "events", "types"]) == 3
    assert "unable to open database file" in capfd.readouterr().err


def test_a_database_without_its_tables_answers_and_is_not_away(
    database_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(Connection(database_url)) as store:
        assert store.current_revision() is None
    (tmp_path / "panko-ingest.conf").write_text(
        f"[database]\nconnection = {database_url}\n[monitor]\nport = 0\n"
    )
    assert main(["--config-file", str(tmp_path / "panko-ingest.conf"), "status"]) == 1
    told = capfd.readouterr().out
    assert "the database has no tables for events yet: run `panko-ingest db sync`" in told
    assert "unreachable" not in told


def test_a_merge_into_a_file_that_is_not_there_makes_none(
    tmp_path: Path, sqlite_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(Connection(sqlite_url)) as theirs:
        theirs.upgrade()
    path = tmp_path / "panko-ingest.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/mistyped.sqlite\n")
    assert main(["--config-file", str(path), "db", "merge", "--from", sqlite_url]) == 3
    assert f"{tmp_path}/mistyped.sqlite is not there" in capfd.readouterr().err
    assert not (tmp_path / "mistyped.sqlite").exists()
