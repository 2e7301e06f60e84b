"""The host that the tests share: servers, and a machine on which README.md is followed."""

from collections.abc import Iterator

import pytest

from tests.services import PostgreSQL, RabbitMQ
from tests.systemd.host import Host
from tests.systemd.machine import Machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A Debian that has been booted."""
    machine = Machine(tmp_path_factory.mktemp("machines") / "panko-ingest-tests")
    try:
        machine.boot()
        yield machine
    finally:
        machine.remove()


@pytest.fixture(scope="session")
def password_protected_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL that trusts its superuser alone."""
    server = PostgreSQL()
    rules = server.directory / "hba.conf"
    rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    server.give_away(rules)
    server.settings["hba_file"] = str(rules)
    with server:
        yield server


@pytest.fixture(scope="session")
def host(machine: Machine, rabbitmq: RabbitMQ, password_protected_postgresql: PostgreSQL) -> Host:
    """The machine after steps 1 to 4 of the README: everything is there, nothing is started."""
    host = Host(machine, rabbitmq, password_protected_postgresql)
    host.install()
    return host
