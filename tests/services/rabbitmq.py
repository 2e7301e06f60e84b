"""A private RabbitMQ, and the little of its management interface that tests need."""

import contextlib
import itertools
import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp

from tests.services.server import Server, free_port
from tests.waiting import wait_until


class RabbitMQ(Server):
    """RabbitMQ with its defaults and the management plugin; user ``guest``, password ``guest``.

    Its node name, cookie and port mapper are its own, so it meets no other node of the machine.

    :param settings: lines of rabbitmq.conf, such as ``{"consumer_timeout": "10000"}``.
    :param directory: an existing, empty folder for its data; a temporary one by default.
    :param cluster_with: a running node whose cluster this one joins at its first start.
    :param plugins: to enable beside the management plugin.
    :param tree: the root of the Debian whose RabbitMQ this is.
    """

    name = "rabbitmq"
    system_user = "rabbitmq"

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        directory: Path | None = None,
        cluster_with: "RabbitMQ | None" = None,
        plugins: Sequence[str] = (),
        tree: Path | None = None,
    ) -> None:
        super().__init__(settings, directory, tree or (cluster_with._tree if cluster_with else None))
        self.management_port = free_port()
        self.node = f"test{self.port}@localhost"
        self._first = cluster_with
        self._plugins = ["rabbitmq_management", *plugins]
        self._epmd_port: int = cluster_with._epmd_port if cluster_with else free_port()
        self._port_mapper: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def _find_programs(self) -> None:
        self._server = self._program("rabbitmq-server", "rabbitmq-server", ["/usr/lib/rabbitmq/bin"])
        self._epmd = self._program("epmd", "erlang-base")

    @property
    def url(self) -> str:
        """The broker's default vhost."""
        return self.vhost_url("/")

    @property
    def management_url(self) -> str:
        """The management interface, without credentials."""
        return f"http://127.0.0.1:{self.management_port}"

    def vhost_url(self, vhost: str) -> str:
        """Return the URL of a vhost."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def create_vhost(self) -> str:
        """Make an empty vhost and return its URL."""
        vhost = f"test-{next(self._numbers)}"
        self.api("PUT", f"vhosts/{vhost}")
        return self.vhost_url(vhost)

    def drop_vhost(self, url: str) -> None:
        """Delete a vhost with all its queues; its connections are closed."""
        self.api("DELETE", f"vhosts/{url.rpartition('/')[2]}")

    def api(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Call the management interface, and return what it answers.

        Its figures lag behind by up to a second; a passive declare of a queue tells its counts at once.

        :param path: below ``/api/``, its parts quoted.
        :param headers: sent in Latin-1.
        :raises urllib.error.HTTPError: it refuses.
        """
        request = urllib.request.Request(
            f"{self.management_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise
        return json.loads(text) if text else None

    def queues(self, url: str) -> list[dict[str, Any]]:
        """Return the queues of a vhost as the management interface describes them."""
        found: list[dict[str, Any]] = self.api("GET", f"queues/{url.rpartition('/')[2]}")
        return found

    def delete_queue(self, url: str, queue: str) -> None:
        """Delete a queue, whoever consumes from it."""
        self.api("DELETE", f"queues/{url.rpartition('/')[2]}/{quote(queue, safe='')}")

    def bound_exchanges(self, url: str, queue: str) -> set[str]:
        """Return the exchanges that a queue is bound to; none for a queue that is not there."""
        try:
            bindings = self.api("GET", f"queues/{url.rpartition('/')[2]}/{quote(queue, safe='')}/bindings")
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return set()
            raise
        return {binding["source"] for binding in bindings} - {""}

    def connections(self, url: str) -> list[dict[str, Any]]:
        """Return name, peer port, state and channels of each client's connection to a vhost."""
        columns = ["vhost", "name", "peer_port", "state", "channels"]
        listed = json.loads(self.ctl("list_connections", *columns, "--formatter", "json"))
        return [connection for connection in listed if connection["vhost"] == url.rpartition("/")[2]]

    def close_connections(self, url: str) -> None:
        """Close the clients' connections to a vhost from the broker's side."""
        self.ctl("close_all_connections", "--vhost", url.rpartition("/")[2], "closed by a test")

    def close_connection(self, name: str, reason: str) -> None:
        """Close a client's connection as an operator does by the management interface, once that knows it."""

        def closed() -> bool:
            try:
                self.api("DELETE", f"connections/{quote(name, safe='')}", headers={"X-Reason": reason})
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
                return False
            return True

        wait_until(closed, 20, f"connection {name} in the management interface", interval=0.2)

    @property
    def release(self) -> tuple[int, int]:
        """The first two numbers of its version."""
        major, minor, *_ = self.api("GET", "overview")["rabbitmq_version"].split(".")
        return int(major), int(minor)

    def ctl(self, *words: str) -> str:
        """Run rabbitmqctl on the node, and return what it prints; takes a second, and long under load.

        :raises RuntimeError: it failed.
        """
        command = [str(self._server.with_name("rabbitmqctl")), "--silent", "--node", self.node, *words]
        done = subprocess.run(
            self._placed(command),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory), **self._environment()},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=self.start_timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Start the node, and join the cluster when this is its first start."""
        joins = self._first is not None and not self._prepared
        if self._first is None and (self._port_mapper is None or self._port_mapper.poll() is not None):
            self._port_mapper = self.spawn(
                [self._epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            )
        super().start()
        if joins and self._first:
            self.ctl("stop_app")
            self.ctl("join_cluster", self._first.node)
            self.ctl("start_app")

    def close(self) -> None:
        """End it and its port mapper at once, and remove its folder unless the caller gave one."""
        super().close()
        if self._port_mapper:
            self._port_mapper.kill()
            self._port_mapper.wait()

    def _prepare(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(
            self._first.directory.joinpath(".erlang.cookie").read_text() if self._first else "X" * 20
        )
        cookie.chmod(0o600)
        plugins = self.directory / "enabled_plugins"
        plugins.write_text(f"[{','.join(self._plugins)}].\n")
        self.give_away(cookie)

    def _environment(self) -> dict[str, str]:
        folder = str(self.directory)
        return {
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_NODENAME": self.node,
        }

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.management_port),
            "collect_statistics_interval": "1000",
            **self.settings,
        }
        conf = self.directory / "rabbitmq.conf"
        conf.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        conf.chmod(0o644)
        folder = str(self.directory)
        return [self._server], {
            **self._environment(),
            "RABBITMQ_CONFIG_FILE": str(conf),
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/server.pid",
            "RABBITMQ_DIST_PORT": str(free_port()),
            # the script then becomes the server instead of watching over it
            "RUNNING_UNDER_SYSTEMD": "true",
            # idle schedulers sleep instead of spinning
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _is_ready(self) -> bool:
        try:
            with amqp.Connection(f"127.0.0.1:{self.port}", "guest", "guest", connect_timeout=5):
                pass
            self.api("GET", "overview")
        except (OSError, amqp.AMQPError):
            return False
        return True


@contextlib.contextmanager
def broker_cluster() -> Iterator[list[RabbitMQ]]:
    """Run three nodes of one broker; a part that is cut off from the majority stops serving."""
    settings = {"cluster_partition_handling": "pause_minority", "net_ticktime": "5"}
    nodes: list[RabbitMQ] = []
    try:
        for _ in range(3):
            nodes.append(RabbitMQ(settings, cluster_with=nodes[0] if nodes else None))
            nodes[-1].start()
        yield nodes
    finally:
        for node in reversed(nodes):
            node.close()
