"""A host on which an operator follows the README, word for word but for addresses."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.acceptance.installation import CHECKOUT, build
from tests.documents import ROOT, Block, blocks, commands, statements
from tests.services import PostgreSQL, RabbitMQ
from tests.services.server import free_port
from tests.systemd.machine import Machine, debian_cache
from tests.waiting import wait_until

README = ROOT / "README.md"
CONFIGURATION = "/etc/panko-ingest/panko-ingest.conf"
CREDENTIALS = "/etc/panko-ingest/panko-ingest.credentials.d"


class Host:
    """The machine, and the servers that it uses."""

    def __init__(self, machine: Machine, rabbitmq: RabbitMQ, postgresql: PostgreSQL) -> None:
        self.machine = machine
        self.rabbitmq = rabbitmq
        self.postgresql = postgresql
        self.monitor_port = free_port()
        self.wheels = machine.path("/srv/dist")

    def install(self) -> None:
        """Follow the README up to where the tables are made."""
        wheel, _ = build(self.wheels)
        self._fetch_dependencies(wheel.name)
        for block in blocks(path=README)[1:]:
            if commands(block)[0] == "panko-ingest db sync":
                return
            self.follow(block)

    def _fetch_dependencies(self, wheel: str) -> None:
        """Have pip install from a folder what it would fetch, in the versions that other tests run with."""
        constraints = CHECKOUT / "constraints.txt"
        shutil.copy(constraints, self.machine.path("/srv/constraints.txt"))
        name = f"wheels-{self.machine.suite}-{hashlib.sha256(constraints.read_bytes()).hexdigest()[:16]}"
        cached, here = debian_cache() / name, self.machine.path("/srv/wheels")
        if cached.exists():
            shutil.copytree(cached, here)
        else:
            self.machine.run(
                "python3 -m venv /srv/pip\n"
                f"/srv/pip/bin/pip wheel --quiet --wheel-dir /srv/wheels --constraint constraints.txt "
                f"'dist/{wheel}[postgresql]'",
                timeout=1800,
            )
            for ours in here.glob("panko_ingest-*"):
                ours.unlink()
            shutil.copytree(here, cached.with_suffix(".part"))
            cached.with_suffix(".part").rename(cached)
        environment = self.machine.path("/etc/environment")
        environment.write_text("PIP_NO_INDEX=1\nPIP_FIND_LINKS=/srv/wheels\n")

    def follow(self, block: Block) -> None:
        """Do what a block of the README says."""
        if block.language == "ini":
            self.configure(block.text)
        elif block.language == "sql":
            for statement in statements(block):
                self.postgresql.execute(statement)
        elif block.language == "bash":
            for line in commands(block):
                if line.startswith("rabbitmqctl "):
                    self.rabbitmq.ctl(*shlex.split(line)[1:])
            ours = [line for line in commands(block) if not re.match("rabbitmqctl |make dist", line)]
            self.machine.run("\n".join(ours).replace(":8978/", f":{self.monitor_port}/"))

    def with_addresses(self, text: str) -> str:
        """Return a configuration of the documents with the servers of the tests."""
        text = text.replace("database1/", f"127.0.0.1:{self.postgresql.port}/")
        return re.sub(r"rabbit[12]:5672", f"127.0.0.1:{self.rabbitmq.port}", text)

    def configure(self, text: str) -> None:
        """Write the configuration, with a port of the monitor that is free here."""
        more = f"\n[notification]\nworkers = 2\n[monitor]\nport = {self.monitor_port}\n"
        self.write(CONFIGURATION, self.with_addresses(text) + more)

    def write(self, path: str, text: str) -> None:
        """Write a file on the machine; the owner and mode of one that is there stay."""
        self.machine.path(path).write_text(text)

    def change(self, old: str, new: str) -> None:
        """Change a line of the configuration."""
        text = self.machine.path(CONFIGURATION).read_text()
        assert old in text
        self.write(CONFIGURATION, text.replace(old, new))

    def build_version(self, version: str) -> None:
        """Build a wheel of our files as they are, as another version."""
        source = self.wheels.parent / "source"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True)
        for name in filter(None, listed.stdout.decode().split("\0")):
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, copy)
        project = source / "pyproject.toml"
        text, changes = re.subn(
            r'^version = ".*"$', f'version = "{version}"', project.read_text(), count=1, flags=re.MULTILINE
        )
        assert changes == 1
        project.write_text(text)
        for old in self.wheels.iterdir():
            old.unlink()
        build(self.wheels, source)

    def unit_property(self, name: str) -> str:
        """Return what systemd says of the service."""
        return self.machine.run(f"systemctl show --value --property={name} panko-ingest").strip()

    @property
    def pid(self) -> int:
        """The master's process id, on the machine."""
        return int(self.unit_property("MainPID"))

    def workers(self) -> list[int]:
        """Return the process ids on the machine of the ingest workers, in their order."""
        log = self.log()
        children = self.machine.try_to(f"pgrep --parent {self.pid}").stdout.split()
        return [int(pid) for pid in children if f" {pid} INFO panko_ingest.workers.ingester" in log]

    def log(self) -> str:
        """Return what the service has logged since the machine was made, and systemd of it."""
        return self.machine.run("journalctl --unit panko-ingest --output=cat --no-pager")

    def wait_for_log(self, pattern: str, timeout: float = 60, since: int = 0) -> re.Match[str]:
        """Wait for a match behind the first ``since`` characters of the log."""
        return wait_until(
            lambda: re.search(pattern, self.log()[since:]), timeout, f"{pattern!r} in the log", interval=0.5
        )

    def wait_until_active(self, timeout: float = 90) -> None:
        """Wait until systemd counts the service as started."""
        wait_until(
            lambda: self.unit_property("ActiveState") == "active", timeout, "the service", interval=0.5
        )


def wheel_named(block: Block) -> str:
    """Return the version of the wheel that a block installs."""
    found = re.search(r"dist/panko_ingest-([\d.]+)-py3", block.text)
    assert found
    return found[1]


def tree_of(root: Path) -> set[str]:
    """Return every path that lasts below a root, but what logs and caches hold."""
    passing = ("proc", "sys", "dev", "run", "tmp", "srv", "var/log", "var/cache", "var/tmp", "root/.cache")
    found = set()
    for place, folders, files in os.walk(root):
        inside = Path(place).relative_to(root)
        folders[:] = [name for name in folders if (inside / name).as_posix() not in passing]
        found |= {(inside / name).as_posix() for name in [*folders, *files]}
    return found
