"""A private MariaDB."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.services.server import Server


class MariaDB(Server):
    """MariaDB with the defaults it has on Debian; ``root`` has no password.

    :param settings: names and values of the server's section of my.cnf.
    """

    name = "mariadb"
    system_user = "mysql"

    def __init__(self, settings: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
        super().__init__(settings, directory)
        self._data = self.directory / "data"
        self._temporary = self.directory / "tmp"
        self._numbers = itertools.count(1)

    def _find_programs(self) -> None:
        self._mariadbd = self._program("mariadbd", "mariadb-server")
        self._install = self._program("mariadb-install-db", "mariadb-server")

    @property
    def url(self) -> str:
        """The server's own database."""
        return self.database_url("mysql")

    def database_url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"mysql://root@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root in one session, and return the rows of the last."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", autocommit=True, connect_timeout=5, read_timeout=60
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.database_url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        name = url.rpartition("/")[2]
        users = self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")
        for (connection_id,) in users:
            with contextlib.suppress(pymysql.OperationalError):  # it left by itself
                self.execute(f"KILL {connection_id}")
        self.execute(f"DROP DATABASE IF EXISTS {name}")

    def _prepare(self) -> None:
        for folder in (self._data, self._temporary):
            folder.mkdir()
            self.give_away(folder)
        self.run([
            self._install, "--no-defaults", f"--datadir={self._data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db", "--innodb-fast-shutdown=0", "--innodb-flush-method=nosync",
            f"--tmpdir={self._temporary}",
        ])  # fmt: skip

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {
            "datadir": str(self._data),
            "socket": str(self.directory / "server.sock"),
            "pid-file": str(self.directory / "server.pid"),
            # A server that starts deletes the temporary tables of others in a folder that they share.
            "tmpdir": str(self._temporary),
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "character-set-server": "utf8mb4",
            "collation-server": "utf8mb4_general_ci",
            **self.settings,
        }
        return [self._mariadbd, "--no-defaults", *(f"--{k}={v}" for k, v in settings.items())], {}

    def _is_ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.OperationalError:
            return False
        return True
