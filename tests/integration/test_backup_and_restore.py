"""docs/backup-restore.md: its commands, run on each server, and ingest that goes on afterwards."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.storage import EventFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from panko_ingest.storage.schema import partitions
from tests.documents import ROOT, blocks, run_script, statements
from tests.integration.storage.samples import make_events, make_letter, stored

PAGE = ROOT / "docs" / "backup-restore.md"


def run(words: tuple[str, ...], places: Mapping[str, str], folder: Path) -> str:
    """Run a block of the page in a folder, with the names of our places instead of those printed."""
    (block,) = blocks("bash", *words, path=PAGE)
    script = block.text
    for printed, place in places.items():
        script = script.replace(printed, place)
    done = run_script(script, folder)
    assert done.returncode == 0, script + done.stdout + done.stderr
    return done.stdout


def restored_url(kind: str, url: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Return the URL of the database that is restored into, and what stands for the page's places."""
    if kind == "sqlite":
        # The file itself is lost, and its copy comes in its place.
        return url, {"/var/lib/panko-ingest/panko.sqlite": f"{folder}/events.sqlite"}
    parsed = sa.make_url(url)
    restored = f"{parsed.database}_restored"
    places = {"panko_restored": restored}
    if kind == "postgresql":
        places |= {
            "//panko@database1/panko\n": f"//postgres@127.0.0.1:{parsed.port}/{parsed.database}\n",
            "//postgres@database1": f"//postgres@127.0.0.1:{parsed.port}",
            "--owner=panko": "--owner=postgres",
        }
    else:
        places |= {
            "--host=database1": f"--host=127.0.0.1 --port={parsed.port}",
            "--user=panko": "--user=root",
            "panko.sql panko\n": f"panko.sql {parsed.database}\n",
        }
    return url.replace(str(parsed.database), restored), places


def partitioned() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("partition_by", "day", group="database")
    conf.set_override("event_time_to_live", "30d", group="database")
    return conf


def test_ingest_goes_on_after_a_restore_and_what_the_backup_lacks_can_be_merged(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> None:
    back_up_lose_and_restore(request, database_url, tmp_path)


@pytest.mark.postgresql
def test_partitioned_tables_are_backed_up_and_restored_like_plain_ones(
    request: pytest.FixtureRequest, postgresql_url: str, tmp_path: Path
) -> None:
    back_up_lose_and_restore(request, postgresql_url, tmp_path, partitioned())


def back_up_lose_and_restore(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path, conf: cfg.ConfigOpts | None = None
) -> None:
    kind = database_url.partition(":")[0].replace("mysql", "mariadb")
    if kind == "sqlite" and shutil.which("sqlite3") is None:
        pytest.skip("needs sqlite3")
    store = Connection(database_url, conf)
    store.upgrade()
    if conf is not None:
        with store.engine.connect() as connection:
            assert partitions.exist(connection)
    emoji = Event("emoji", "t", make_events(1)[0].generated, [], {"payload": {"name": "größe 😀"}})
    store.record_events([*make_events(50), emoji], [make_letter("one", b"\0\xff")])
    url, places = restored_url(kind, database_url, tmp_path)
    run(("backup", kind), places, tmp_path)
    backed_up = stored(store)
    store.record_events(make_events(20, 50))  # acknowledged, and lost
    store.close()
    damaged = url
    if kind == "sqlite":
        damaged = f"sqlite:///{tmp_path}/damaged.sqlite"
        for end in ("", "-wal", "-shm"):
            if Path(f"{tmp_path}/events.sqlite{end}").exists():
                shutil.copy(f"{tmp_path}/events.sqlite{end}", f"{tmp_path}/damaged.sqlite{end}")
    else:
        damaged = database_url

    run(("restore", kind), places, tmp_path)
    try:
        (tmp_path / ".panko-ingest").mkdir()
        (tmp_path / ".panko-ingest" / "panko-ingest.conf").write_text(f"[database]\nconnection = {url}\n")
        (tmp_path / "damaged.conf").write_text(f"[database]\nconnection = {damaged}\n")
        (check,) = blocks("bash", "restored", path=PAGE)
        assert check.text == "panko-ingest db check\n"
        restored = Connection(url, conf)
        assert not [finding for finding in restored.check() if finding.level == "failure"]
        assert stored(restored) == backed_up
        # What the broker still held: some that are in the backup, and new ones.
        redelivered = restored.record_events([*make_events(10), *make_events(5, 100)])
        assert redelivered.duplicates == tuple(range(10))
        assert len(redelivered.recorded) == 5

        said = run(("merge",), {"/etc/panko-ingest": str(tmp_path)}, tmp_path)

        assert "71 events there: 20 are new here, 51 were here already, 0 can't be stored" in said
        assert len(list(restored.get_events(EventFilter()))) == 76
        restored.close()
    finally:
        if kind != "sqlite":
            request.getfixturevalue(kind).drop_database(url)


@pytest.mark.postgresql
def test_sequences_that_a_restore_of_the_data_alone_left_behind_are_set_right(postgresql_url: str) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events(make_events(30), [make_letter("one")])
    (block,) = blocks("sql", "sequences", path=PAGE)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        for table in ("event_type", "event", "dead_letter"):
            connection.execute(f"SELECT setval('{table}_id_seq', 1, false)".encode())
        assert len([finding for finding in store.check() if finding.subject == "sequences"]) == 3
        for statement in statements(block):
            connection.execute(statement.encode())
    assert not [finding for finding in store.check() if finding.subject == "sequences"]
    assert len(store.record_events(make_events(30, 30), [make_letter("two")]).recorded) == 30
    store.close()
