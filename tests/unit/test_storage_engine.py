"""URLs, drivers and options of a store, before anything is opened."""

import builtins
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from panko_ingest.errors import ConfigError
from panko_ingest.storage import EventFilter, get_connection
from panko_ingest.storage.engine import refuse_network_file_system
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.settings import Settings
from panko_ingest.timestamps import parse


@pytest.mark.parametrize(
    ("url", "dressed"),
    [
        ("mysql://u:p%40ss@h:3306/panko?charset=utf8", "mysql+pymysql://u:p%40ss@h:3306/panko?charset=utf8"),
        ("mariadb://u:p@h/panko", "mysql+pymysql://u:p@h/panko"),
        ("mysql+mysqldb://u:p@h/panko", "mysql+mysqldb://u:p@h/panko"),
        ("postgresql://u:p@h/panko", "postgresql://u:p@h/panko"),
        ("sqlite:///panko.db", "sqlite:///panko.db"),
    ],
)
def test_a_url_without_a_driver_gets_ours_and_keeps_its_password(url: str, dressed: str) -> None:
    assert Connection.dress_url(url) == dressed


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://h/db", "psycopg"),
        ("mysql://h/db", "pymysql"),
        ("mysql+pymysql://h/db?charset=utf8", "pymysql"),
        ("mariadb://h/db", "pymysql"),
        ("mariadb+pymysql://h/db", "pymysql"),
        ("sqlite://", "pysqlite"),
    ],
)
def test_each_scheme_has_its_driver(url: str, driver: str) -> None:
    assert get_connection(url).engine.driver == driver  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("postgresql://h/db", "psycopg", "postgresql"), ("mysql://h/db", "pymysql", "mysql")],
)
def test_a_missing_driver_is_refused_by_naming_the_extra(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"pip install 'panko-ingest\[{extra}\]'"):
        Connection(url)


def test_an_unknown_scheme_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(ConfigError, match="installed: mariadb, mysql, postgresql, sqlite"):
        get_connection("mongodb://h/db")


def test_any_configuration_will_do() -> None:
    assert Settings.from_conf(None) == Settings.from_conf(cfg.ConfigOpts()) == Settings()

    # Another library has options of these names, with its own defaults.
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.IntOpt("max_retries", default=3), cfg.IntOpt("max_overflow")], group="database")
    settings = Settings.from_conf(conf)
    assert (settings.max_retries, settings.max_overflow) == (3, 50)

    conf.set_override("lock_timeout", 1.5, "database")
    assert Settings.from_conf(conf).lock_timeout == 1.5


def test_a_store_in_memory_needs_nothing_but_two_calls() -> None:
    store = Connection("sqlite://")
    store.upgrade()
    event = Event("m", "t", parse("2026-01-01T00:00:00Z"), [Trait("a", Trait.TEXT_TYPE, "b")])
    assert store.record_events([event]).recorded == (0,)
    assert list(store.get_events(EventFilter())) == [event]
    assert store.clear_expired_data(0) == 1
    store.close()


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:50 / /srv/share rw - nfs4 server:/share rw\n"
        "3 2 0:51 / /srv/share/local\\040disk rw - xfs /dev/sdb1 rw\n"
    )
    refuse_network_file_system(Path("/var/lib/panko/events.sqlite"), mounts)
    refuse_network_file_system(Path("/srv/share/local disk/events.sqlite"), mounts)
    with pytest.raises(ConfigError, match=r"nfs4 at /srv/share"):
        refuse_network_file_system(Path("/srv/share/panko/events.sqlite"), mounts)
