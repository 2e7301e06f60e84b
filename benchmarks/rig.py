"""What every measurement stands on: private servers, the standard load, and who used how much processor."""

import contextlib
import datetime
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import sqlalchemy as sa
from oslo_config import cfg

from benchmarks import load
from benchmarks.make_load import lines
from panko_ingest import config
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event
from tests.bodies import decode
from tests.bus import Bus
from tests.daemon import COMMAND, configuration
from tests.services import MariaDB, PostgreSQL, RabbitMQ
from tests.services.galera import Galera
from tests.services.haproxy import HAProxy
from tests.services.server import Server

QUEUE = "notifications.info"
SEED = 1

KINDS = ("postgresql", "partitioned", "mariadb", "sqlite", "galera")
"""Databases, and layouts of their tables; a Galera has a single MariaDB beside it."""

BROKER_SETTINGS = {"collect_statistics_interval": "5000"}
"""RabbitMQ's own default, which tests shorten."""


@dataclass
class Sample:
    """What a number of events took once.

    :param wall: seconds.
    :param cpu: seconds of processor by party: ``ours``, ``broker``, ``database``.
    :param busy: share of all cores that was busy, with whatever ran on the machine.
    :param more: what else was seen, by name, in units that the name tells.
    """

    events: int
    wall: float
    cpu: dict[str, float]
    busy: float = 0.0
    more: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.wall

    def micro(self, party: str | None = None) -> float:
        """Return microseconds of processor an event, of one party or of all."""
        seconds = sum(self.cpu.values()) if party is None else self.cpu.get(party, 0.0)
        return seconds / self.events * 1e6


def cpu_of(root: psutil.Process) -> float:
    """Return the CPU seconds that a process and all its descendants, ended ones too, have used."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


class Meter:
    """A stopwatch for the wall clock and for processes.

    :param parties: processes by party; the party ``ours`` is this process where it isn't among them.
    """

    def __init__(self, parties: Mapping[str, list[psutil.Process]]) -> None:
        self._parties = parties
        self._started = self._read()

    def sample(self, events: int, **more: float) -> Sample:
        """Return what was used since the meter was made."""
        (wall, busy, whole, cpu), (wall0, busy0, whole0, cpu0) = self._read(), self._started
        spent = {party: cpu[party] - cpu0[party] for party in cpu}
        return Sample(events, wall - wall0, spent, (busy - busy0) / max(whole - whole0, 0.01), dict(more))

    def _read(self) -> tuple[float, float, float, dict[str, float]]:
        machine = psutil.cpu_times()
        whole = sum(machine) - machine.guest - machine.guest_nice
        cpu = {"ours": time.process_time()} if "ours" not in self._parties else {}
        cpu |= {party: sum(map(cpu_of, roots)) for party, roots in self._parties.items()}
        return time.perf_counter(), whole - machine.idle - machine.iowait, whole, cpu


def bodies(count: int, seed: int = SEED) -> Iterator[bytes]:
    """Yield messages of the standard load, dated yesterday; another seed makes other ones."""
    yesterday = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(days=1)
    start = yesterday.replace(hour=0, minute=0, second=0, microsecond=0)
    return (line.encode() for line in lines(count, seed, start, load.DAY))


class Rig:
    """A broker, a database and the standard load, dated yesterday.

    :param kind: one of ``KINDS``.
    :param count: notifications of the load.
    """

    def __init__(self, kind: str, count: int) -> None:
        self.kind = kind
        self.bodies = list(bodies(count))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        self.broker = self._stack.enter_context(RabbitMQ(BROKER_SETTINGS))
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.server: PostgreSQL | MariaDB | None = None
        if self.kind in {"postgresql", "partitioned"}:
            self.server = self._stack.enter_context(PostgreSQL())
        elif self.kind in {"mariadb", "galera"}:
            self.server = self._stack.enter_context(MariaDB())
        if self.kind == "galera":
            self.galera = self._stack.enter_context(Galera())
            self.proxy = self._stack.enter_context(HAProxy(self.galera))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def database_options(self) -> str:
        """The lines of [database] that make the layout."""
        if self.kind != "partitioned":
            return ""
        return "[database]\npartition_by = week\nevent_time_to_live = 90d\n"

    def meter(self, ours: psutil.Process | None = None) -> Meter:
        """Start a meter for broker, database, and ours: a process, this one by default."""
        servers: Sequence[Server] = [self.server] if self.server else []
        if self.kind == "galera":
            servers = [*servers, *self.galera.nodes, self.proxy]
        parties = {"broker": [psutil.Process(self.broker.pid)]}
        parties["database"] = [psutil.Process(server.pid) for server in servers]
        if ours is not None:
            parties["ours"] = [ours]
        return Meter(parties)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, without tables; it is gone at the end."""
        if self.server is None:
            path = self.folder / f"{time.monotonic_ns()}.sqlite"
            yield f"sqlite:///{path}"
            for file in self.folder.glob(f"{path.name}*"):
                file.unlink()
            return
        url = self.server.create_database()
        yield url
        self.server.drop_database(url)

    @contextlib.contextmanager
    def cluster(self) -> Iterator[str]:
        """Make a database with our tables in the Galera, seen through its proxy."""
        url = self.galera.create_database()
        self._make_tables(self.proxy.through(url))
        yield self.proxy.through(url)
        self.galera.nodes[-1].drop_database(url)

    @contextlib.contextmanager
    def store(self, release: Path | None = None) -> Iterator[str]:
        """Make a database with our tables, or with those of another release's checkout."""
        with self.database() as url:
            if release is None:
                self._make_tables(url)
            else:
                conf = configuration(self.folder, "rabbit://nobody", url, self.database_options)
                subprocess.run(
                    [*command(release), "--config-file", conf, "db", "sync"], check=True, capture_output=True
                )
            yield url

    def _make_tables(self, url: str) -> None:
        connection = Connection(url, self._conf())
        connection.upgrade()
        connection.close()

    def _conf(self) -> cfg.ConfigOpts:
        path = self.folder / "tables.conf"
        path.write_text(self.database_options)
        conf = cfg.ConfigOpts()
        config.register_opts(conf)
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        return conf

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """Make an empty vhost; it is gone at the end."""
        url = self.broker.create_vhost()
        yield url
        self.broker.drop_vhost(url)

    @contextlib.contextmanager
    def full_queue(self, messages: Iterable[bytes] | None = None, *, quorum: bool = True) -> Iterator[str]:
        """Make a vhost whose durable queue holds messages, by default the standard load."""
        with self.vhost() as url:
            with Bus(url, quorum=quorum) as bus:
                bus.declare()
                bus.publish(self.bodies if messages is None else messages)
            yield url

    def events(self) -> list[Event]:
        """Convert the load."""
        converter = load.converter()
        notifications = (decode(body) for body in self.bodies)
        found = (converter.to_event(one.message, one.priority) for one in notifications)
        return [event for event in found if event is not None]


def command(release: Path | None) -> Sequence[str | Path]:
    """Return what calls the program of this checkout, or of another release's, which has an environment."""
    return COMMAND if release is None else [release / ".venv" / "bin" / "panko-ingest"]


class Rows:
    """Counts what was stored, at as little expense of the database as can be.

    :param behind: the id behind which to count, where many rows were there before.
    """

    def __init__(self, url: str, table: str = "event", behind: int = 0) -> None:
        self._engine = Connection(url).engine
        where = f" WHERE id > {behind}" if behind else ""
        self._count = sa.text(f"SELECT count(*) FROM {table}{where}")

    def count(self) -> int:
        """Return the rows that are committed."""
        with self._engine.connect() as session:
            return int(session.execute(self._count).scalar_one())

    def wait_for(self, rows: int, rate: float, timeout: float = 120) -> None:
        """Wait for the last of so many rows; looks the more often the nearer it should be.

        :param rate: rows a second to expect.
        :raises TimeoutError: they didn't come.
        """
        deadline = time.monotonic() + timeout
        while (stored := self.count()) < rows:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{stored:,} of {rows:,} rows were stored within {timeout:g} s")
            time.sleep(min(0.2, max(0.005, (rows - stored) / rate / 2)))

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()
