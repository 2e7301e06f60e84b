"""A private MariaDB Galera cluster, configured as clouds have it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import pymysql

from tests.services.mariadb import MariaDB
from tests.services.server import NotInstalledError, free_port
from tests.waiting import wait_until

_PROVIDER = "usr/lib/galera/libgalera_smm.so"

# Kolla-Ansible's and OpenStack-Ansible's: three nodes are the durability, and utf8 is the default.
_AS_IN_CLOUDS = {
    "binlog-format": "ROW",
    "innodb-autoinc-lock-mode": "2",
    "innodb-flush-log-at-trx-commit": "0",
    "transaction-isolation": "READ-COMMITTED",
    "character-set-server": "utf8",
    "collation-server": "utf8_general_ci",
    "init-connect": "SET NAMES utf8",
    "wsrep-slave-threads": "4",
    "max-connections": "1000",
    # From 11.4 on the options of the provider can be changed only without this plugin; loose: others lack it.
    "loose-plugin-wsrep-provider": "OFF",
}


class GaleraNode(MariaDB):
    """One node of a cluster; it takes part from its start to its end.

    :param peers: the nodes of the cluster, this one among them, in a list that the cluster fills.
    """

    name = "galera"

    def __init__(self, peers: "list[GaleraNode]", settings: Mapping[str, str] | None = None) -> None:
        super().__init__({**_AS_IN_CLOUDS, **(settings or {})})
        self._peers = peers
        self._cluster_port, self._transfer_port, self._increment_port = (free_port() for _ in range(3))

    def _find_programs(self) -> None:
        super()._find_programs()
        if not ((self._tree or Path("/")) / _PROVIDER).exists():
            raise NotInstalledError("Galera is not installed: apt-get install galera-4, or make services")

    @property
    def address(self) -> str:
        """Where the other nodes find it."""
        return f"127.0.0.1:{self._cluster_port}"

    def status(self, name: str) -> str:
        """Return a status variable, such as ``wsrep_local_state_comment``."""
        ((_, value),) = self.execute(f"SHOW STATUS LIKE '{name}'")
        return str(value)

    @property
    def synced(self) -> bool:
        """Whether it serves clients as a part of the cluster, asked within seconds."""
        try:
            return self.running and self.status("wsrep_local_state_comment") == "Synced"
        except pymysql.MySQLError:
            return False

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Take it out of the cluster: it runs and answers, and refuses statements with 1047."""
        self.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
        try:
            wait_until(lambda: self.status("wsrep_cluster_status") != "Primary", 30, "a node cut off")
            yield
        finally:
            self.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
            wait_until(lambda: self.synced, 60, "a node that is back")

    def _prepare(self) -> None:
        if self._peers[0] is self:
            super()._prepare()
            return
        for folder in (self._data, self._temporary):  # the first node hands over its data
            folder.mkdir()
            self.give_away(folder)

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        others = [node.address for node in self._peers if node is not self and node.running]
        # A cluster that is too quick to believe in a lost node loses some on a busy machine.
        provider = {
            "base_port": str(self._cluster_port),
            "gmcast.listen_addr": f"tcp://{self.address}",
            "ist.recv_addr": f"127.0.0.1:{self._increment_port}",
            "evs.suspect_timeout": "PT3S",
            "evs.inactive_timeout": "PT6S",
            "evs.inactive_check_period": "PT0.5S",
            "gcache.size": "16M",
        }
        command, environment = super()._command()
        return [
            *command,
            "--wsrep-on=ON",
            f"--wsrep-provider=/{_PROVIDER}",
            "--wsrep-cluster-name=tests",
            f"--wsrep-cluster-address=gcomm://{','.join(others)}",
            f"--wsrep-node-name=node{self._peers.index(self)}",
            f"--wsrep-node-address={self.address}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address=127.0.0.1:{self._transfer_port}",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in provider.items())}",
        ], environment

    def _is_ready(self) -> bool:
        return self.synced


class Galera:
    """Three nodes that hold the same: what is committed on one the others apply a moment later."""

    def __init__(self) -> None:
        self.nodes: list[GaleraNode] = []
        for _ in range(3):
            self.nodes.append(GaleraNode(self.nodes))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start those nodes that don't run; they get from the others what they lack."""
        for node in self.nodes:
            node.start()

    def close(self) -> None:
        """End all nodes at once."""
        for node in self.nodes:
            node.close()

    def wait_until_whole(self) -> None:
        """Wait until all nodes serve clients as parts of one cluster, and each knows of all."""

        def whole() -> bool:
            return all(
                node.synced and node.status("wsrep_cluster_size") == str(len(self.nodes))
                for node in self.nodes
            )

        wait_until(whole, 60, "a whole cluster")

    def create_database(self) -> str:
        """Make an empty database and return its URL on the last node; all nodes have it then."""
        url = self.nodes[-1].create_database()
        name = url.rpartition("/")[2]
        for node in self.nodes:
            # wsrep_sync_wait = 1 is not enough: rarely a node still has no such database.
            there = partial(node.execute, f"SHOW DATABASES LIKE '{name}'")
            wait_until(there, 30, "the database on each node")
        return url

    def contents(self, url: str) -> list[list[tuple[Any, ...]]]:
        """Return for each node the checksums of a database's tables, once it has all that was committed."""
        self.wait_until_whole()
        name = url.rpartition("/")[2]
        return [
            node.execute(
                "SET SESSION wsrep_sync_wait = 1",
                f"CHECKSUM TABLE {', '.join(f'{name}.{table}' for (table,) in self._tables(name))}",
            )
            for node in self.nodes
        ]

    def _tables(self, name: str) -> list[tuple[Any, ...]]:
        return self.nodes[0].execute("SET SESSION wsrep_sync_wait = 1", f"SHOW TABLES FROM {name}")
