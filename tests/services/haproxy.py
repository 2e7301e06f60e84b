"""A private HAProxy before the nodes of a Galera cluster: one is active, the others wait, as in clouds."""

import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.services.galera import Galera, GaleraNode
from tests.services.server import Server


class HAProxy(Server):
    """HAProxy: the first node that is part of the cluster gets all sessions.

    :param settings: of the section ``defaults``, such as ``{"timeout client": "2s"}``.
    """

    name = "haproxy"
    system_user = "haproxy"

    def __init__(self, galera: Galera, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self._nodes = galera.nodes
        self._checks = [_ClusterCheck(node) for node in galera.nodes]
        self._console = self.directory / "console"

    def _find_programs(self) -> None:
        self._haproxy = self._program("haproxy", "haproxy")

    @property
    def url(self) -> str:
        """The active node's own database."""
        return self.through(self._nodes[0].url)

    def through(self, url: str) -> str:
        """Return the URL of the same database by way of this."""
        return f"mysql://root@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def cut_sessions(self) -> int:
        """End all sessions as a failover does, and return how many there were."""
        sessions = sum(int(line["scur"]) for line in self._servers())
        for number in range(len(self._nodes)):
            self._say(f"shutdown sessions server nodes/node{number}")
        return sessions

    @property
    def active(self) -> GaleraNode | None:
        """The node that new sessions go to."""
        return next(
            (
                self._nodes[number]
                for number, line in enumerate(self._servers())
                if line["status"].startswith("UP")
            ),
            None,
        )

    def sessions(self, node: GaleraNode) -> int:
        """Return how many sessions go to a node."""
        return int(self._servers()[self._nodes.index(node)]["scur"])

    def close(self) -> None:
        """End it at once."""
        super().close()
        for check in self._checks:
            check.close()

    def _servers(self) -> list[dict[str, str]]:
        first, *lines = self._say("show stat").removeprefix("# ").splitlines()
        rows = [dict(zip(first.split(","), line.split(","), strict=False)) for line in lines if line]
        return [row for row in rows if row["pxname"] == "nodes" and row["svname"].startswith("node")]

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as console:
            console.settimeout(10)
            console.connect(str(self._console))
            console.sendall(f"{command}\n".encode())
            answer = b""
            while part := console.recv(65536):
                answer += part
        return answer.decode()

    def _prepare(self) -> None:
        pass

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {
            "mode": "tcp",
            "timeout connect": "5s",
            "timeout client": "20m",
            "timeout server": "20m",
            "timeout check": "1s",
            **self.settings,
        }
        servers = [
            f" server node{number} 127.0.0.1:{node.port} check port {check.port} inter 500ms rise 2 fall 2"
            + (" backup" if number else "")
            for number, (node, check) in enumerate(zip(self._nodes, self._checks, strict=True))
        ]
        lines = [
            "global",
            f" stats socket {self._console} mode 666 level admin",
            "defaults",
            *(f" {name} {value}" for name, value in settings.items()),
            "listen nodes",
            f" bind 127.0.0.1:{self.port}",
            " option httpchk",
            *servers,
        ]
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text("\n".join(lines) + "\n")
        configuration.chmod(0o644)
        return [self._haproxy, "-db", "-f", configuration], {}

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.active is not None
        return False


class _ClusterCheck:
    """Answers HAProxy whether a node may get sessions, as the ``clustercheck`` of these clouds does."""

    def __init__(self, node: GaleraNode) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_OPTIONS(self) -> None:
                with contextlib.suppress(ConnectionError):  # the answer came too late
                    self.send_response(200 if node.synced else 503)
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="clustercheck", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
