"""What commands print of what they did, and where they write nothing."""

import datetime
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from panko_ingest.cli import output
from panko_ingest.cli.main import main
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter, Event

LONG_AGO = datetime.datetime(2020, 1, 1)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/ours.sqlite\nevent_time_to_live = 1d\n")
    store = Connection(f"sqlite:///{tmp_path}/ours.sqlite")
    store.upgrade()
    letters = [DeadLetter(bytes([n]) * 32, b"{", "decode", "DecodeError", "is no JSON") for n in range(5)]
    store.record_events([Event("old", "t", LONG_AGO)], letters)
    store.close()
    return path


def test_a_command_writes_nothing_where_the_daemon_writes_its_log(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    conf.write_text(conf.read_text() + f"[DEFAULT]\nlog_dir = {folder}\nlog_file = daemon.log\n")
    main(["--config-file", str(conf), "check"])
    assert f"{folder}/daemon.log" in capsys.readouterr().out
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("owner", "mode", "level", "text"),
    [
        (0, 0o755, "warning", "only root may write it: a daemon that runs as another user can't"),
        (0, 0o775, "ok", "user 0, group 0 may write it"),
        (65534, 0o755, "ok", "user 65534 may write it"),
        (65534, 0o777, "ok", "anyone, user 65534, group 0 may write it"),
    ],
)
def test_root_is_told_who_may_write_the_log(
    conf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    owner: int,
    mode: int,
    level: str,
    text: str,
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    conf.write_text(conf.read_text() + f"[DEFAULT]\nlog_dir = {folder}\nlog_file = daemon.log\n")
    if os.geteuid() == 0:
        os.chown(folder, owner, 0)
        folder.chmod(mode)
    else:
        level, text = "ok", "the daemon writes it, if it runs as this user"
    main(["--config-file", str(conf), "check", "--json"])
    (found,) = [one for one in json.loads(capsys.readouterr().out) if one["subject"] == "log"]
    assert found == {"level": level, "subject": "log", "text": found["text"]}
    assert f"{folder}/daemon.log: {text}" in found["text"]


def test_a_log_that_root_has_made_in_the_daemons_folder_is_told_with_what_to_do(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "daemon.log").touch(mode=0o644)
    conf.write_text(conf.read_text() + f"[DEFAULT]\nlog_dir = {folder}\nlog_file = daemon.log\n")
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        told = f"a daemon that runs as another user can't: chown 65534 {folder}/daemon.log"
    else:
        told = f"{folder}/daemon.log: the daemon writes it, if it runs as this user"
    main(["--config-file", str(conf), "check", "--json"])
    assert told in capsys.readouterr().out


def test_check_finds_that_the_log_can_not_be_written(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(conf.read_text() + f"[DEFAULT]\nlog_file = {tmp_path}/absent/daemon.log\n")
    assert main(["--config-file", str(conf), "check"]) == 1
    assert f"log_file, log_dir: {tmp_path}/absent/daemon.log: No such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite+pysqlite:///:memory:?timeout=3",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_db_sync_makes_no_tables_in_memory_that_no_other_process_would_find(
    conf: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    conf.write_text(f"[database]\nconnection = {url}\n")
    assert main(["--config-file", str(conf), "db", "sync"]) == 2
    told = capsys.readouterr().err
    assert "[database] connection: names no file" in told
    assert "write sqlite:////" in told


@pytest.mark.parametrize(
    "command", [["db", "sync"], ["db", "sync", "--dry-run"], ["db", "current"], ["check"]]
)
def test_no_command_promises_a_file_that_its_url_lets_nobody_make(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    url = f"sqlite:///file:{tmp_path}/absent.sqlite?mode=rw&uri=true"
    conf.write_text(f"[database]\nconnection = {url}\n")
    assert main(["--config-file", str(conf), *command]) == (1 if command == ["check"] else 3)
    told = "".join(capsys.readouterr())
    assert f"{tmp_path}/absent.sqlite is not there: correct its name, or leave mode=rw out" in told
    assert "would be made" not in told


@pytest.mark.parametrize("command", [["db", "sync"], ["db", "current"], ["check"], ["events", "list"]])
def test_links_that_lead_in_a_circle_are_no_file_of_ours(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    for path in ("one", "one/ours.sqlite"):
        conf.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/{path}\n")
        assert main(["--config-file", str(conf), *command])
        told = "".join(capsys.readouterr())
        assert "`ls -l` tells whose they are" in told
        assert "nobody foresaw" not in told


def test_check_tells_once_that_the_url_of_a_bus_can_not_be_used(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = "[DEFAULT]\ntransport_url = rabbit://a:b@h/?ssl=maybe\n[notification]\nworkers = 2\n"
    conf.write_text(conf.read_text() + bus)
    assert main(["--config-file", str(conf), "check"]) == 1
    assert capsys.readouterr().out.count("ssl is neither true nor false") == 1


def test_check_warns_of_several_workers_on_a_bus_that_is_made_for_one(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = f"[DEFAULT]\ntransport_url = sqla+sqlite:///{tmp_path}/bus.sqlite\n[notification]\nworkers = 2\n"
    conf.write_text(conf.read_text() + bus)
    main(["--config-file", str(conf), "check"])
    assert "made for one process: set [notification] workers = 1" in capsys.readouterr().out


def test_check_finds_more_workers_than_there_is_room_for(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = "[DEFAULT]\ntransport_url = amqp://a:b@127.0.0.1:1/\n[notification]\nworkers = 513\n"
    conf.write_text(conf.read_text() + bus)
    assert main(["--config-file", str(conf), "check"]) == 1
    assert "[notification] workers: 513 are more than 512" in capsys.readouterr().out


def test_what_root_makes_of_sqlite_belongs_to_whom_its_folder_belongs_to(conf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    conf.write_text(f"[database]\nconnection = sqlite:///{folder}/ours.sqlite\n")
    assert main(["--config-file", str(conf), "db", "sync"]) == 0
    assert (folder / "ours.sqlite").stat().st_uid == folder.stat().st_uid


def test_root_gives_away_what_it_made_and_not_what_a_link_in_its_place_leads_to(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, roots, who = tmp_path / "state", tmp_path / "of-root", os.geteuid()
    folder.mkdir()
    roots.touch()
    if who == 0:
        os.chown(folder, 65534, 65534)
    file = folder / "ours.sqlite"

    def whoever_owns_the_folder_is_quick() -> int:
        if file.exists() and not file.is_symlink():
            file.rename(folder / "made")
            file.symlink_to(roots)
        return who

    monkeypatch.setattr(os, "geteuid", whoever_owns_the_folder_is_quick)
    conf.write_text(f"[database]\nconnection = sqlite:///{file}\n")
    main(["--config-file", str(conf), "db", "sync"])
    assert file.is_symlink()
    assert roots.stat().st_uid == who
    assert (folder / "made").stat().st_uid == folder.stat().st_uid


def test_a_list_of_dead_letters_says_that_there_are_more(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--config-file", str(conf), "dead-letters", "list", "--limit", "4"])
    shown = capsys.readouterr()
    assert shown.out.count("is no JSON") == 4
    assert shown.err == "there are more: --limit 0 lists all\n"
    for limit in ("5", "0"):
        main(["--config-file", str(conf), "dead-letters", "list", "--limit", limit])
        shown = capsys.readouterr()
        assert (shown.out.count("is no JSON"), shown.err) == (5, "")


def test_expire_tells_what_it_deleted_of_events_and_of_dead_letters(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(conf.read_text() + "[expirer]\ndead_letter_time_to_live = 0.000001\n")
    assert main(["--config-file", str(conf), "expire"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1 events with 0 traits deleted")
    assert second == "5 dead letters deleted"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_what_is_to_be_copied_from_a_terminal_is_whole_however_narrow_it_is(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    whole = ["2026-01-01 00:00:00", "compute.instance.resize.confirm.end", str(uuid.uuid4())]
    columns = ("generated", "event_type", "message_id", "project_id", "user_id")
    output.table(columns, [[*whole, "p" * 32, None]], columns[:3])
    shown = capsys.readouterr()
    _, line = shown.out.splitlines()
    assert set(whole) <= set(line.split("  "))
    assert len(line.rstrip()) <= max(width, len("  ".join(whole)))
    assert ("ppp" in line) == (width > 100)
    assert ("too narrow for project_id, user_id: a pipe" in shown.err) == (width <= 100)


@pytest.mark.parametrize(
    ("line", "holds"), [("", False), ("[DEFAULT]\ntransport_url = rabbit://guest:SECRET-1@rabbit1/\n", True)]
)
def test_check_tells_that_anyone_may_read_passwords_only_where_there_are_any(
    line: str, holds: bool, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(conf.read_text() + line)
    conf.chmod(0o644)
    main(["--config-file", str(conf), "check"])
    assert (f"chmod o-r {conf}" in capsys.readouterr().out) == holds


def test_a_dry_run_of_db_sync_refuses_what_db_sync_refuses(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(conf.read_text() + "partition_by = day\n")
    command = ["--config-file", str(conf), "db", "sync"]
    assert main([*command, "--dry-run"]) == main(command) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second == "panko-ingest: [database] partition_by: day needs PostgreSQL: set none"


def test_follow_ends_where_the_database_does_not_answer_at_the_beginning(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text("[database]\nconnection = mysql://panko:SECRET-1@127.0.0.1:1/panko\n")
    assert main(["--config-file", str(conf), "events", "follow", "--count", "1"]) == 3
    told = capsys.readouterr().err
    assert "Connection refused" in told
    assert "trying" not in told


@pytest.mark.parametrize("command", ["list --type", "types"])
def test_that_no_event_is_of_such_a_type_is_told(
    command: str, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config-file", str(conf), "events", *command.split(), "none.*"]) == 0
    assert capsys.readouterr().err == "no events of a type like none.* are stored\n"


def test_a_file_that_is_no_database_is_not_said_to_be_mended_by_db_sync(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("Dear operator, I am a text of some length and no database.")
    conf.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/letter.txt\n")
    for command in (["db", "sync"], ["events", "list"]):
        assert main(["--config-file", str(conf), *command]) == 3
        told = capsys.readouterr().err
        assert "is not a database (let the URL of the database name another file" in told
        assert "db sync" not in told


def test_an_interrupt_in_generated_code_ends_a_command_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from panko_ingest.cli import main\n"
        "main.read = lambda arguments: exec('raise KeyboardInterrupt')\n"
        "sys.exit(main.main([]))\n"
    )
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, timeout=60, check=False)
    assert ended.returncode == 130
