"""Connections that were asked to be encrypted are, or there are none."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from oslo_config import cfg

from panko_ingest import amqp, config
from panko_ingest.cli import check
from panko_ingest.errors import BrokerError, ConfigError
from panko_ingest.storage import Connection, StorageUnavailable, get_connection
from tests.bus import Bus
from tests.daemon import COMMAND, configuration
from tests.faults.proxy import Proxy
from tests.services.certificates import Authority, KeyPair
from tests.services.mariadb import MariaDB
from tests.services.postgresql import PostgreSQL
from tests.services.rabbitmq import RabbitMQ
from tests.services.server import find_program, free_port, open_to_servers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    open_to_servers(folder)
    return folder


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    (folder / "stranger").mkdir()
    return Authority(folder / "stranger")


@contextlib.contextmanager
def mariadb_with(pair: KeyPair, authority: Authority) -> Iterator[MariaDB]:
    settings = {"ssl-cert": pair.certificate, "ssl-key": pair.key, "ssl-ca": authority.certificate}
    with MariaDB({name: str(path) for name, path in settings.items()}) as server:
        yield server


@contextlib.contextmanager
def postgresql_with(pair: KeyPair) -> Iterator[PostgreSQL]:
    pair.key.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(pair.key, pwd.getpwnam("postgres").pw_uid)
    settings = {"ssl": "on", "ssl_cert_file": str(pair.certificate), "ssl_key_file": str(pair.key)}
    with PostgreSQL(settings) as server:
        yield server


@contextlib.contextmanager
def rabbitmq_with(pair: KeyPair, authority: Authority) -> Iterator[tuple[RabbitMQ, int]]:
    """Run a broker that has a port for TLS, too."""
    port = free_port()
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(authority.certificate),
        "ssl_options.certfile": str(pair.certificate),
        "ssl_options.keyfile": str(pair.key),
    }
    with RabbitMQ(settings) as server:
        yield server, port


@pytest.fixture(scope="module")
def tls_mariadb(authority: Authority) -> Iterator[MariaDB]:
    with mariadb_with(authority.sign("mariadb", "localhost"), authority) as server:
        yield server


@pytest.fixture(scope="module")
def tls_postgresql(authority: Authority) -> Iterator[PostgreSQL]:
    with postgresql_with(authority.sign("postgresql", "localhost")) as server:
        yield server


def how(url: str) -> str:
    """Return what `check` tells of the connection."""
    connection: Connection = get_connection(url)
    connection.upgrade()
    (finding,) = [finding for finding in connection.check() if finding.subject == "connection"]
    connection.close()
    return finding.text


class Listening(Proxy):
    """Hears what passes, either way."""

    heard = b""

    def _read(self, end: socket.socket) -> bytes:
        data = super()._read(end)
        self.heard += data
        return data


@pytest.mark.mariadb
def test_mariadb_without_tls_is_refused_where_tls_was_asked_for(authority: Authority, tmp_path: Path) -> None:
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nssl-ca = {authority.certificate}\n")
    # Releases from 11.4 on have TLS unless told.
    with MariaDB({"ssl": "0"}) as mariadb, Listening(mariadb.port) as proxy:
        url = mariadb.create_database()
        for option in (
            f"ssl_ca={authority.certificate}",
            f"ssl_ca={authority.certificate}&ssl_disabled=false",
            "ssl_verify_cert=true",
            "ssl_verify_cert=false",
            "ssl_cipher=AES256-SHA",
            f"read_default_file={options}",
        ):
            with pytest.raises(StorageUnavailable, match="ssl_\\* ask for TLS, which the server does not"):
                get_connection(f"{proxy.url(url)}?{option}").upgrade()
        assert b"mysql_native_password" in proxy.heard
        assert b"root" not in proxy.heard, "the login went out in clear"
        assert how(url) == "not encrypted"


@pytest.mark.mariadb
def test_mariadb_is_verified_and_check_tells(
    tls_mariadb: MariaDB, authority: Authority, stranger: Authority
) -> None:
    url = tls_mariadb.create_database().replace("127.0.0.1", "localhost")
    assert how(f"{url}?ssl_ca={authority.certificate}") == "encrypted, the server verified"
    with pytest.raises(StorageUnavailable, match="certificate verify failed"):
        get_connection(f"{url}?ssl_ca={stranger.certificate}").upgrade()


@pytest.mark.mariadb
def test_a_file_as_operators_of_kubernetes_write_it_for_services_has_mariadb_verified(
    tls_mariadb: MariaDB, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    url = tls_mariadb.create_database().replace("127.0.0.1", "localhost")
    file = tmp_path / "my.cnf"
    for flag in ("ssl=1", "ssl"):
        file.write_text(f"[client]\n{flag}\nssl-ca={authority.certificate}\n")
        assert how(f"{url}?read_default_file={file}") == "encrypted, the server verified"
        file.write_text(f"[client]\n{flag}\nssl-ca={stranger.certificate}\n")
        with pytest.raises(StorageUnavailable, match="certificate verify failed"):
            how(f"{url}?read_default_file={file}")


@pytest.mark.mariadb
def test_why_a_server_is_not_trusted_is_told_also_where_the_next_address_does_not_answer(
    tls_mariadb: MariaDB, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tls_mariadb.create_database().replace("127.0.0.1", "database.example")
    resolve = socket.getaddrinfo

    def two(_host: str, *args: int, **kwargs: int) -> list[object]:
        return [found for host in ("127.0.0.1", "127.0.0.3") for found in resolve(host, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(StorageUnavailable, match="certificate verify failed"):
        get_connection(f"{url}?ssl_ca={stranger.certificate}").upgrade()


@pytest.mark.mariadb
def test_each_option_of_mariadb_means_what_it_says_beside_any_other(
    tls_mariadb: MariaDB, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    by_name = tls_mariadb.create_database().replace("127.0.0.1", "localhost")
    by_address = by_name.replace("localhost", "127.0.0.1")
    file = tmp_path / "my.cnf"
    file.write_text(f"[client]\nssl-ca = '{stranger.certificate}'\nssl_verify_server_cert\n")
    ours, theirs = f"ssl_ca={authority.certificate}", f"ssl_ca={stranger.certificate}"
    of_file = f"read_default_file={file}"
    wishes = ("ssl_verify_cert=true", "ssl_verify_identity=1", "ssl_check_hostname=Yes", "ssl_disabled=false")
    for wish in (*wishes, "&".join(wishes)):
        assert how(f"{by_name}?{ours}&{wish}") == "encrypted, the server verified"
        with pytest.raises(StorageUnavailable, match="IP address mismatch"):
            how(f"{by_address}?{ours}&{wish}")
        with pytest.raises(StorageUnavailable, match="certificate verify failed"):
            how(f"{by_name}?{theirs}&{wish}")
    for option in (of_file, "ssl_verify_cert=true", "ssl_verify_identity=true", "ssl_check_hostname=true"):
        with pytest.raises(StorageUnavailable, match="certificate verify failed"):
            how(f"{by_name}?{option}")
    assert how(f"{by_name}?{of_file}&{ours}") == "encrypted, the server verified"
    for nameless in ("ssl_verify_identity=false", "ssl_check_hostname=0&ssl_verify_cert=yes"):
        text = how(f"{by_address}?{ours}&{nameless}")
        assert text == "encrypted, the server verified, but not its name"
    for unverified in (f"{theirs}&ssl_verify_cert=no", "ssl_cipher=ECDHE-ECDSA-AES256-GCM-SHA384"):
        assert how(f"{by_name}?{unverified}") == "encrypted, but the server is not verified"
    assert (
        how(f"{by_name}?ssl_disabled=true") == how(f"{by_name}?{of_file}&ssl_disabled=1") == "not encrypted"
    )


@pytest.mark.mariadb
def test_mariadb_is_shown_our_certificate_whatever_else_is_asked_for(
    tls_mariadb: MariaDB, authority: Authority
) -> None:
    account = authority.sign("account")
    locked = account.key.with_suffix(".locked")
    key = serialization.load_pem_private_key(account.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"opensesame"),
        )
    )
    url = tls_mariadb.create_database().replace("root@127.0.0.1", "owner@localhost")
    tls_mariadb.execute("CREATE USER owner REQUIRE X509", "GRANT ALL ON *.* TO owner")
    trusted = f"{url}?ssl_ca={authority.certificate}&ssl_verify_identity=true"
    with pytest.raises(StorageUnavailable, match="Access denied"):
        how(trusted)
    shown = f"{trusted}&ssl_cert={account.certificate}"
    assert how(f"{shown}&ssl_key={account.key}") == "encrypted, the server verified"
    assert how(f"{shown}&ssl_key={locked}&ssl_key_password=opensesame") == "encrypted, the server verified"
    for key_of_it in (f"ssl_key={locked}", f"ssl_key={locked}&ssl_key_password=0pensesame"):
        with pytest.raises(StorageUnavailable, match="a file that ssl_\\* name") as refused:
            how(f"{shown}&{key_of_it}")
        assert "0pensesame" not in str(refused.value)


@pytest.mark.postgresql
def test_postgresql_without_tls_is_refused_where_tls_was_asked_for(
    postgresql_url: str, authority: Authority
) -> None:
    for option in (
        f"sslrootcert={authority.certificate}",
        "sslmode=prefer&sslrootcert=system",
        "sslmode=require",
    ):
        with pytest.raises(StorageUnavailable, match=r"SSL|sslmode"):
            get_connection(f"{postgresql_url}?{option}").upgrade()
    assert how(postgresql_url) == "not encrypted"


@pytest.mark.postgresql
def test_tls_asked_for_by_the_environment_or_a_service_is_no_less_than_in_the_url(
    postgresql_url: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[plain]\nconnect_timeout=5\n[tls]\nsslrootcert={authority.certificate}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert how(f"{postgresql_url}?service=plain") == "not encrypted"
    with pytest.raises(StorageUnavailable, match="SSL"):
        get_connection(f"{postgresql_url}?service=tls").upgrade()
    monkeypatch.setenv("PGSSLROOTCERT", str(authority.certificate))
    with pytest.raises(StorageUnavailable, match="SSL"):
        get_connection(postgresql_url).upgrade()
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert how(postgresql_url) == "not encrypted"


@pytest.mark.postgresql
def test_postgresql_is_verified_and_check_tells(
    tls_postgresql: PostgreSQL, authority: Authority, stranger: Authority
) -> None:
    url = tls_postgresql.create_database().replace("127.0.0.1", "localhost")
    trusted = f"sslrootcert={authority.certificate}"
    assert how(f"{url}?sslmode=verify-full&{trusted}") == "encrypted, the server verified"
    assert how(f"{url}?{trusted}") == "encrypted, the server verified, but not its name"
    assert how(f"{url}?sslmode=require") == "encrypted, but the server is not verified"
    with pytest.raises(StorageUnavailable, match="certificate verify failed"):
        get_connection(f"{url}?sslrootcert={stranger.certificate}").upgrade()


@pytest.mark.rabbitmq
def test_a_bus_without_tls_is_refused_where_tls_was_asked_for(broker_url: str, authority: Authority) -> None:
    for option in ("ssl=1", f"ssl_ca_file={authority.certificate}"):
        with pytest.raises(BrokerError, match="SSL"):
            amqp.reach(amqp.parse(f"{broker_url}?{option}"))


@pytest.mark.rabbitmq
def test_publish_goes_over_tls(
    folder: Path, authority: Authority, stranger: Authority, sqlite_url: str
) -> None:
    message = folder / "message.json"
    message.write_text(json.dumps({"event_type": "x", "publisher_id": "p", "payload": {}}))
    with rabbitmq_with(authority.sign("rabbitmq", "localhost"), authority) as (server, port):
        for trusted, code in ((authority, 0), (stranger, 3)):
            conf = configuration(
                folder,
                f"rabbit://guest:guest@localhost:{port}/",
                sqlite_url,
                f"[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = {trusted.certificate}\n",
            )
            done = subprocess.run(
                [sys.executable, "-m", "panko_ingest", "--config-file", conf, "publish", "--create", message],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == code, done.stderr
        with Bus(server.url) as bus:
            assert bus.count() == 1


@pytest.mark.mariadb
@pytest.mark.postgresql
@pytest.mark.rabbitmq
def test_a_server_whose_certificate_has_expired_is_refused_by_each_kind_of_connection(
    authority: Authority,
) -> None:
    refused = pytest.raises(
        (StorageUnavailable, BrokerError), match=r"certificate (verify failed|has expired)"
    )
    with mariadb_with(authority.sign("old-mariadb", "localhost", expired=True), authority) as mariadb:
        url = mariadb.create_database().replace("127.0.0.1", "localhost")
        with refused:
            get_connection(f"{url}?ssl_ca={authority.certificate}").upgrade()
    with postgresql_with(authority.sign("old-postgresql", "localhost", expired=True)) as postgresql:
        url = postgresql.create_database().replace("127.0.0.1", "localhost")
        with refused:
            get_connection(f"{url}?sslmode=verify-full&sslrootcert={authority.certificate}").upgrade()
    with rabbitmq_with(authority.sign("old-rabbitmq", "localhost", expired=True), authority) as (_, port):
        bus = amqp.parse(f"rabbit://guest:guest@localhost:{port}/?ssl_ca_file={authority.certificate}")
        with refused:
            amqp.reach(bus)


def test_the_account_of_an_encrypted_bus_is_not_shown_over_http() -> None:
    bus = amqp.parse("rabbit://user:secret@host/?ssl=1")
    with pytest.raises(ConfigError, match="write https://, or an account of its own"):
        amqp.Management.parse("http://host:15672", bus)
    assert amqp.Management.parse("http://other:one@host:15672", bus).user == "other"
    assert amqp.Management.parse("https://host:15671", bus).user == "user"


@pytest.mark.parametrize(
    "form",
    [
        "sqlite:///{}",
        "sqlite:///{}?timeout=30",
        "sqlite:///file:{}?uri=true",
        "sqlite:///file://localhost{}?mode=rwc&uri=1",
    ],
)
def test_the_file_of_sqlite_is_its_owners_alone_and_check_makes_none(tmp_path: Path, form: str) -> None:
    path = tmp_path / "events.sqlite"
    sqlite_url = form.format(path)
    before = os.umask(0o022)
    try:
        connection = get_connection(sqlite_url)
        conf = cfg.ConfigOpts()
        config.register_opts(conf)
        conf([], default_config_files=[], default_config_dirs=[])
        conf.set_override("connection", sqlite_url, "database")
        (finding,) = check.database(conf)
        assert finding.text == f"{path} is not there: run `panko-ingest db sync`, which makes it"
        assert not path.exists()
        connection.upgrade()
        assert {file.stat().st_mode & 0o777 for file in path.parent.glob(f"{path.name}*")} == {0o600}
    finally:
        os.umask(before)


def test_a_file_of_sqlite_that_a_link_leads_to_is_made_for_the_owner_of_its_own_folder_alone(
    tmp_path: Path,
) -> None:
    folder, link = tmp_path / "elsewhere", tmp_path / "events.sqlite"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12346)
    link.symlink_to(folder / "real.sqlite")
    get_connection(f"sqlite:///{link}").upgrade()
    made = (folder / "real.sqlite").stat()
    assert made.st_mode & 0o777 == 0o600
    assert (made.st_uid, made.st_gid) == (folder.stat().st_uid, folder.stat().st_gid)


@pytest.mark.parametrize(
    ("power", "mode", "told"),
    [
        ("chown", 0o700, ""),
        (
            "dac_override",
            0o500,
            "Permission denied: may user {} write its folder? `ls -ld` tells whose it is",
        ),
    ],
)
def test_what_root_may_not_do_in_a_container_keeps_a_file_of_sqlite_from_being_made_only_where_it_has_to(
    tmp_path: Path, power: str, mode: int, told: str
) -> None:
    folder, path = tmp_path / "folder", tmp_path / "folder" / "events.sqlite"
    folder.mkdir(mode)
    conf = tmp_path / "panko-ingest.conf"
    conf.write_text(f"[database]\nconnection = sqlite:///{path}\n")
    command = [*COMMAND, "--config-file", conf, "db", "sync"]
    if os.geteuid() == 0:
        if power == "chown":
            os.chown(folder, 12345, 12346)
        setpriv = find_program("setpriv", "util-linux")
        command = [setpriv, f"--inh-caps=-{power}", f"--bounding-set=-{power}", *command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = f"panko-ingest: {path} can't be made: {told.format(os.geteuid())}\n" if told else ""
    assert (ended.returncode, ended.stderr) == (3 if told else 0, said)
    assert path.exists() is not bool(told)


def test_sqlite_makes_no_file_where_its_uri_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    for mode in ("ro", "rw"):
        with pytest.raises(StorageUnavailable, match=rf"is not there .* mode={mode} "):
            get_connection(f"sqlite:///file:{path}?uri=true&mode={mode}").upgrade()
    get_connection(f"sqlite:///file:{path}?uri=true&mode=memory").upgrade()
    assert not path.exists()


@pytest.mark.parametrize(
    "url",
    ["sqlite:///{}?uri=true", "sqlite:///file:{}", "sqlite:///file:{}?uri=0", "sqlite:///{}?mode=memory"],
)
def test_a_url_of_sqlite_that_is_half_a_uri_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="take uri=true"):
        get_connection(url.format(tmp_path / "events.sqlite"))
