"""A private PostgreSQL."""

import itertools
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.services.server import Server


class PostgreSQL(Server):
    """PostgreSQL with the defaults it ships with; ``postgres`` is its superuser, trusted from loopback.

    :param settings: names and values of postgresql.conf.
    """

    name = "postgresql"
    system_user = "postgres"
    _stop_signal = signal.SIGINT  # "fast": disconnects clients; SIGTERM would wait for them to leave

    def __init__(self, settings: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
        super().__init__(settings, directory)
        self._data = self.directory / "data"
        self._numbers = itertools.count(1)

    def _find_programs(self) -> None:
        root = self._tree or Path("/")
        versions = sorted(root.glob("usr/lib/postgresql/*/bin"), key=_version, reverse=True)
        folders = [f"/{folder.relative_to(root)}" for folder in versions]
        self._postgres = self._program("postgres", "postgresql", folders)

    @property
    def url(self) -> str:
        """The server's own database."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as superuser and return its rows."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, options: str = "") -> str:
        """Make an empty database and return its URL.

        :param options: more of CREATE DATABASE, such as its collation.
        """
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        return self.database_url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def _prepare(self) -> None:
        initdb = self._postgres.with_name("initdb")
        choices = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self.run([initdb, "--pgdata", self._data, *choices])

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **self.settings}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._postgres, "-D", self._data, "-p", str(self.port), *options], {}

    def _is_ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0
