"""Reaching a MariaDB server: by each address of its name, and for no longer than a server may take."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.services import MariaDB
from tests.waiting import crowding

pytestmark = pytest.mark.mariadb

NAME = "database.example"


@contextlib.contextmanager
def dead_server(fault: str, port: int = 0) -> Iterator[int]:
    """Listen where a server is frozen, or where a proxy has none; give the port."""
    with socket.create_server(("127.0.0.2", port)) as listener:
        if fault == "hangs up":
            threading.Thread(target=hang_up_on_each, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def hang_up_on_each(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


@pytest.mark.parametrize("fault", ["frozen", "hangs up"])
def test_a_server_that_does_not_answer_is_left_for_the_next_address_of_its_name(
    fault: str, mariadb: MariaDB, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def two(host: str, port: int, *args: int, **kwargs: int) -> list[object]:
        addresses = ["127.0.0.2", "127.0.0.1"] if host == NAME else [host]
        return [found for address in addresses for found in resolve(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    url = mariadb_url.replace("127.0.0.1", NAME)
    with (
        dead_server(fault, mariadb.port),
        contextlib.closing(Connection(f"{url}?connect_timeout=2")) as store,
    ):
        store.upgrade()
        store.ping()


def test_a_frozen_server_keeps_nobody_for_as_long_as_a_statement_may_take() -> None:
    started = time.monotonic()
    with (
        dead_server("frozen") as port,
        contextlib.closing(Connection(f"mysql://u:p@127.0.0.2:{port}/d?connect_timeout=1")) as store,
        pytest.raises(StorageUnavailable, match="the server does not answer"),
    ):
        store.ping()
    assert time.monotonic() - started < 5 * crowding()
