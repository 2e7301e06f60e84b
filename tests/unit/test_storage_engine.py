"""URLs, drivers and options of a store, before anything is opened."""

import builtins
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from panko_ingest.errors import ConfigError
from panko_ingest.storage import (
    EventFilter,
    StorageUnavailable,
    get_connection,
)
from panko_ingest.storage.database.sqlite import refuse_network_file_system
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.settings import StorageSettings
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


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        (
            "postgresql+psycopg2://u:secret@h/db",
            "is not ours: write postgresql:// in its place, for psycopg of panko-ingest[postgresql]",
        ),
        (
            "postgresql+asyncpg://u:secret@h/db",
            "is asynchronous: write postgresql:// in its place, for psycopg of panko-ingest[postgresql]",
        ),
        (
            "mysql+mysqldb://u:secret@h/db",
            "is not installed: write mysql:// in its place, for pymysql of panko-ingest[mysql]",
        ),
        (
            "sqlite+aiosqlite:///events.sqlite",
            "is asynchronous: write sqlite:// in its place",
        ),
    ],
)
def test_a_driver_that_is_not_ours_is_refused_by_naming_the_url_to_write(url: str, advice: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Connection(url)
    scheme = url.partition("://")[0]
    assert str(refused.value) == f"[database] connection: the driver of {scheme}:// {advice}"


def test_only_an_upgrade_makes_a_file_of_sqlite_also_where_it_is_deleted_while_it_is_used(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.sqlite"
    events = [Event("m", "t", parse("2026-01-01T00:00:00Z"), [])]
    with closing(Connection(f"sqlite:///{path}")) as store:
        for _ in range(2):
            for use in (store.ping, store.current_revision, lambda: store.record_events(events)):
                with pytest.raises(
                    StorageUnavailable, match=rf"^{path} is not there \(correct its name"
                ) as told:
                    use()
                assert told.value.operator
            assert not path.exists()
            store.upgrade()
            assert store.record_events(events).recorded
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()
    with (
        closing(Connection(f"sqlite:///{tmp_path}/absent/events.sqlite")) as store,
        pytest.raises(StorageUnavailable, match=r"absent/events\.sqlite can't be made: No such file"),
    ):
        store.upgrade()


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("mysql://u:secret@h/db?sslmode=require", "sslmode"),
        ("mysql://u:secret@h/db?ssl=true", "ssl"),
        ("postgresql://u:secret@h/db?ssl_ca=/etc/authority.pem", "ssl_ca"),
    ],
)
def test_an_option_that_the_driver_does_not_know_is_named_before_anything_connects(
    url: str, option: str
) -> None:
    with pytest.raises(ConfigError, match=f"no option '{option}'") as refused:
        Connection(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("ssl_ca=/ca.pem&ssl_disabled=maybe5", "ssl_disabled is neither true nor false"),
        ("ssl_verify_cert=required5", "ssl_verify_cert is neither"),
        ("ssl_check_hostname=on5", "ssl_check_hostname is neither"),
        (
            "ssl_ca=/ca.pem&ssl_disabled=true&ssl_key_password=s5",
            "ssl_disabled contradicts ssl_ca, ssl_key_pass",
        ),
        ("ssl_verify_identity=true&ssl_check_hostname=false", "contradict each other"),
        ("ssl_verify_identity=true&ssl_verify_cert=false", "ssl_verify_cert contradicts"),
        ("ssl_ca=/ca.pem&ssl_key=/k5.pem", "ssl_key without ssl_cert"),
        ("ssl_ca=/ca5.pem&ssl_ca=/other5.pem", "ssl_ca is there more than once"),
        ("read_default_file=/nowhere", "read_default_file: .*No such file"),
    ],
)
def test_options_of_tls_that_say_nothing_clear_are_refused_by_name_alone(options: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as refused:
        Connection(f"mysql://u:p@h/db?{options}")
    assert "5" not in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("[client]\nssl-mode = VERIFY_CA", "ssl-mode of .* is not known here"),
        ("[client]\ntls-version = TLSv1.3", "tls-version of .* is not known here"),
        ("[client]\nssl = 1", "ssl of .* is not known here"),
        ("[client]\nssl = 0\nssl-ca = /ca", "ssl of .* is not known here"),
        ("[client]\nssl-ca =", "ssl_ca of .* is blank"),
        ("password secret\n[client]", "can't be parsed"),
    ],
)
def test_a_file_that_asks_for_tls_as_pymysql_does_not_understand_is_refused(
    lines: str, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "my.cnf"
    file.write_text(lines)
    with pytest.raises(ConfigError, match=fault) as refused:
        Connection(f"mysql://u:p@h/db?read_default_file={file}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb+pymysql", "postgresql", "sqlite"])
@pytest.mark.parametrize(
    "rest",
    [
        "u:12@secret@h/panko",
        "u:p/@secret@h:5432/panko",
        "us/er:secret@h/panko",
        "u:12@34/secret@h/panko",
        "u:12@34?secret@h/panko",
        "u:12@34:secret@h/panko",
        "u:12@34#secret@h/panko",
    ],
)
def test_what_is_not_quoted_before_an_at_sign_is_refused_without_showing_any_of_it(
    scheme: str, rest: str
) -> None:
    with pytest.raises(ConfigError, match=r"%40|is no URL") as refused:
        Connection(f"{scheme}://{rest}")
    assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_hosts_that_are_written_as_libpq_has_them_are_refused_with_the_way_to_write_them() -> None:
    with pytest.raises(ConfigError, match=r"several hosts as .*\?host=host1:5432&host=host2:5432") as refused:
        Connection("postgresql://u:s3cret@h1:5432,h2:5432/panko")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "a:b", "a%40b", "a/b?c#d:e"])
def test_whatever_else_a_password_holds_arrives_and_shows_nowhere(password: str) -> None:
    url = get_connection(f"mysql://user@server:{password}@h:3307/panko").engine.url  # type: ignore[attr-defined]
    assert (url.username, url.password, url.host) == ("user@server", password.replace("%40", "@"), "h")
    assert password not in str(url)


@pytest.mark.parametrize(
    "option", ["ssl_ca=", "SSL_CA=", "ssl_verify_identity", "sslmode=", "sslrootcert=%20"]
)
@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_blank_option_of_tls_is_refused_by_name(scheme: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option.partition('=')[0]} is blank"):
        Connection(f"{scheme}://u:p@h/db?{option}&connect_timeout=5")


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("postgresql://u@h/d?port=S3cret", "port"),
        ("mysql://u@h/d?connect_timeout=S3cret", "connect_timeout"),
        ("mysql://u@h/d?charset=utf8&local_infile=S3cret", "local_infile"),
        ("sqlite:////nowhere/d?timeout=S3cret", "timeout"),
        ("postgresql://u@h/d?connect_timeout=S3cret", "connect_timeout"),
        ("postgresql://u@h/d?tcp_user_timeout=S3cret", "tcp_user_timeout"),
        ("postgresql://u@h/d?sslmode=S3cret", "sslmode"),
        ("postgresql://u@h/d?target_session_attrs=S3cret", "target_session_attrs"),
    ],
)
def test_a_value_that_no_option_can_have_is_refused_by_the_name_of_the_option(url: str, option: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Connection(url)
    assert str(refused.value) == f"[database] connection: the value of {option} can't be used"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("mysql://u:secret@h", "names no database"),
        ("mysql://u:secret@h/", "names no database"),
        ("mysql://u:secret@h/d?compress=1", "compress is of no use"),
        ("mysql://u:secret@h/d?named_pipe=1", "named_pipe is of no use"),
        ("mysql://u:secret@h/d?conv=x", "conv is of no use"),
        ("mysql://u:secret@h/d?connect_timeout=0", "the value of connect_timeout"),
        ("mysql://u:secret@h/d?connect_timeout=99999999", "the value of connect_timeout"),
        ("mysql://u:secret@h/d?read_timeout=0", "the value of read_timeout"),
        ("mysql://u:secret@h/d?write_timeout=-1", "the value of write_timeout"),
        ("mysql://u:secret@h/d?port=3307", "port stands behind the host"),
        ("postgresql://u:secret@h:99999/d", "99999 is no port"),
        ("mysql://u:secret@h:0/d", "0 is no port"),
        ("mysql://u:secret@secret..example/d", "the name of a host has a part"),
        ("postgresql://u:secret@secret..example/d", "the name of a host has a part"),
        (f"postgresql://u:secret@/d?host=h1&host={'h' * 64}.example", "the name of a host has a part"),
        ("sqlite:////nowhere/%00.db", "%00 stands in it"),
    ],
)
def test_what_no_driver_could_connect_with_is_refused_before_anything_does(url: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as refused:
        Connection(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        f"host={','.join(f'panko-postgresql-{number}' for number in range(4))}",
        f"host={'h' * 63}:5432",
        "host=fd00:1111:2222:3333::10,fd00:1111:2222:3333::11,fd00:1111:2222:3333::12",
        "host=database,/var/run/postgres..ql",
        f"host={'h' * 64}&hostaddr=127.0.0.1",
    ],
)
def test_hosts_that_a_list_names_are_each_a_name_of_their_own(query: str) -> None:
    Connection(f"postgresql://u:p@/panko?{query}").close()


def test_the_file_that_pymysql_reads_for_a_group_may_name_the_database() -> None:
    try:
        Connection("mysql://u@h/?read_default_group=client")
    except ConfigError as refused:
        assert "/etc/my.cnf" in str(refused)  # noqa: PT017 - a machine may have it, or not


def test_an_unknown_scheme_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(ConfigError, match="installed: mariadb, mysql, postgresql, sqlite"):
        get_connection("mongodb://h/db")


def test_storage_settings_can_be_read_from_any_configuration() -> None:
    assert StorageSettings.from_conf(None) == StorageSettings.from_conf(cfg.ConfigOpts()) == StorageSettings()

    # Another library has options of these names, with its own defaults.
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.IntOpt("max_retries", default=3), cfg.IntOpt("max_overflow")], group="database")
    settings = StorageSettings.from_conf(conf)
    assert (settings.max_retries, settings.max_overflow) == (3, 50)

    # For Panko it says how often to try to connect; a batch must not be tried for ever.
    conf.set_override("max_retries", -1, "database")
    assert StorageSettings.from_conf(conf).max_retries == StorageSettings().max_retries

    conf.set_override("lock_timeout", 1.5, "database")
    assert StorageSettings.from_conf(conf).lock_timeout == 1.5


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
