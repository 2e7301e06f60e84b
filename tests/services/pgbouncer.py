"""A private PgBouncer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.services.postgresql import PostgreSQL
from tests.services.server import Server


class PgBouncer(Server):
    """PgBouncer before a PostgreSQL; whoever comes is ``postgres`` there, each database has its own pool.

    :param settings: names and values of pgbouncer.ini.
    """

    name = "pgbouncer"
    system_user = "postgres"

    def __init__(
        self,
        postgresql: PostgreSQL,
        settings: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        super().__init__(settings, directory)
        self._postgresql = postgresql
        self._file = self.directory / "pgbouncer.ini"

    def _find_programs(self) -> None:
        self._pgbouncer = self._program("pgbouncer", "pgbouncer")

    @property
    def url(self) -> str:
        """Its console, where SHOW and PAUSE are said."""
        return self.through("postgresql:///pgbouncer")

    def through(self, url: str) -> str:
        """Return the URL of the same database by way of this."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def execute(self, command: str) -> list[tuple[Any, ...]]:
        """Run a command of the console and return its rows."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = psycopg.ClientCursor(connection).execute(
                command.encode()
            )  # it knows simple queries only
            return cursor.fetchall() if cursor.description else []

    def _prepare(self) -> None:
        self._file.touch()
        self.give_away(self._file)

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "admin_users": "postgres",
            **self.settings,
        }
        self._file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._postgresql.port} user=postgres\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        return [self._pgbouncer, self._file], {}

    def _is_ready(self) -> bool:
        try:
            self.execute("SHOW VERSION")
        except psycopg.OperationalError:
            return False
        return True
